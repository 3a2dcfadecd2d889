"""Joining, seen from the site: keys stay, a request leaves, an admission comes back."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from clients import join
from clients.center import center_of
from clients.site_file import load_site
from common.errors import InputError
from common.joining import Admission, Invitation, Request, read_file
from common.versions import versions

ADDRESS, MOVED = "center.example:9443", "new.example:9443"


def write_invitation(path: Path, expires: str = "2100-01-01", **more: Any) -> Path:
    """As a center writes it; here its authority is a stand-in that signs nothing."""
    told = {"consortium": "test", "site": "ada", "address": ADDRESS, "ca": "CA", **more}
    until = datetime.fromisoformat(expires).replace(tzinfo=UTC)
    path.write_text(Invitation(token="secret", expires=until, **told).model_dump_json())
    return path


def ask(tmp_path: Path, *, role: str | None = "source", **more: Any) -> Path:
    (tmp_path / "images").mkdir(exist_ok=True)
    invitation = write_invitation(tmp_path / "invitation", **more)
    return join.ask(invitation, tmp_path / "site", data=tmp_path / "images", role=role)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_private_keys_are_made_here_and_stay(tmp_path: Path) -> None:
    request = ask(tmp_path).read_text()
    for name in (join.SITE_KEY, join.NODE_KEY, join.LEDGER_KEY):
        path = tmp_path / "site" / name
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0
        body = "".join(path.read_text().splitlines()[1:-1])
        assert body[:40] not in request
    assert "PRIVATE" not in request
    assert "secret" not in request


def test_the_request_is_what_the_center_needs(tmp_path: Path) -> None:
    request = read_file(ask(tmp_path), Request)
    assert request.is_sealed_by("secret")
    assert not request.is_sealed_by("another")
    assert x509.load_pem_x509_csr(request.certificate.encode()).is_signature_valid
    node = load_ssh_private_key((tmp_path / "site" / join.NODE_KEY).read_bytes(), None)
    assert isinstance(node, ec.EllipticCurvePrivateKey)
    assert isinstance(node.curve, ec.SECP384R1)
    assert len(bytes.fromhex(request.ledger_key)) == 32


def test_asked_again_the_keys_are_the_same(tmp_path: Path) -> None:
    first, second = (read_file(ask(tmp_path), Request) for _ in range(2))
    assert first.node_key == second.node_key
    assert first.ledger_key == second.ledger_key


def test_the_site_file_is_sound_and_never_written_over(tmp_path: Path) -> None:
    ask(tmp_path)
    path = tmp_path / "site" / join.SITE_FILE
    found = load_site(path)
    assert found.site.name == "ada"
    assert found.site.role == "source"
    assert found.site.data_folder == tmp_path / "images"
    assert found.upstream.address == "center.example:9443"
    assert found.gate.node_key == tmp_path / "site" / join.NODE_KEY
    assert not found.network.allow_open_network
    path.write_text(path.read_text() + "# ours\n")
    ask(tmp_path, role=None)
    assert path.read_text().endswith("# ours\n")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"site": "bo"}, "is the site ada, and the invitation is for bo"),
        ({"role": "target"}, r'says role = "source", not target'),
        ({"versions": {"sonofed": "99.0.0"}}, r"sonofed is .* here and 99.0.0 at the center"),
        ({"versions": {"flwr": "1.3.0"}}, r"flwr is .* here and 1.3.0 at the center"),
    ],
)
def test_an_invitation_that_does_not_fit_changes_nothing(
    tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    ask(tmp_path)
    before = contents(tmp_path / "site")
    with pytest.raises(InputError, match=words):
        ask(tmp_path, **given)
    assert contents(tmp_path / "site") == before


def test_other_data_than_the_site_has(tmp_path: Path) -> None:
    ask(tmp_path)
    before = contents(tmp_path / "site")
    (tmp_path / "others").mkdir()
    with pytest.raises(InputError, match=r"the data lie in .*/images; change it there"):
        join.ask(tmp_path / "invitation", tmp_path / "site", data=tmp_path / "others")
    assert contents(tmp_path / "site") == before


def test_an_invitation_of_another_consortium(tmp_path: Path) -> None:
    ask(tmp_path)
    # Not admitted yet: there is nothing to lose.
    ask(tmp_path, ca="ANOTHER")
    (tmp_path / "site" / join.CERTIFICATE).write_text("admitted")
    before = contents(tmp_path / "site")
    with pytest.raises(InputError, match="was admitted by another authority"):
        ask(tmp_path, ca="CA")
    assert contents(tmp_path / "site") == before


def test_a_center_that_has_moved_is_followed(tmp_path: Path) -> None:
    ask(tmp_path)
    path = tmp_path / "site" / join.SITE_FILE
    before = path.read_text()
    ask(tmp_path, address=MOVED)
    assert load_site(path).upstream.address == MOVED
    assert path.read_text() == before.replace(ADDRESS, MOVED)


def test_an_address_that_the_site_has_chosen_stays(tmp_path: Path) -> None:
    ask(tmp_path)
    path = tmp_path / "site" / join.SITE_FILE
    path.write_text(path.read_text().replace(ADDRESS, "relay.local:9443"))
    ask(tmp_path, address=MOVED)
    ask(tmp_path, address="newer.example:9443")
    assert load_site(path).upstream.address == "relay.local:9443"


def test_an_address_that_a_person_must_change(tmp_path: Path) -> None:
    ask(tmp_path)
    path = tmp_path / "site" / join.SITE_FILE
    text = path.read_text()
    table = text[text.index("[upstream]") : text.index("[network]")]
    inline = (
        f'upstream = {{ address = "{ADDRESS}", ca = "keys/ca.pem", certificate = "keys/site.pem", '
        'key = "keys/site.key" }\n'
    )
    path.write_text(inline + text.replace(table, ""))
    with pytest.raises(InputError, match=f'write address = "{MOVED}"'):
        ask(tmp_path, address=MOVED)


def test_what_the_center_says_of_itself_is_kept(tmp_path: Path) -> None:
    told = versions()
    assert set(told) == {"sonofed", "flwr"}
    ask(tmp_path, study="ab" * 32, versions=told)
    site = load_site(tmp_path / "site" / join.SITE_FILE)
    center = center_of(site)
    assert (center.study, center.versions, center.address) == ("ab" * 32, told, ADDRESS)
    # A renewal names no study: the one that is planned stays.
    ask(tmp_path)
    assert center_of(site).study == "ab" * 32
    assert "secret" not in (tmp_path / "site" / "keys" / "center.json").read_text()


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    invitation = write_invitation(tmp_path / "invitation")
    with pytest.raises(InputError, match="/proc/x"):
        join.ask(invitation, Path("/proc/x"), data=tmp_path)


def test_a_damaged_key(tmp_path: Path) -> None:
    ask(tmp_path)
    (tmp_path / "site" / join.SITE_KEY).write_text("no key")
    with pytest.raises(InputError, match="is no private key, or is damaged"):
        ask(tmp_path)


def test_an_admission_of_other_versions(tmp_path: Path) -> None:
    ask(tmp_path)
    given = Admission(
        consortium="test", site="ada", address=ADDRESS, ca="CA", certificate="PEM", node_id=1,
        expires=datetime(2100, 1, 1, tzinfo=UTC), versions={"sonofed": "99.0.0"},
    )  # fmt: skip
    (tmp_path / "admission").write_text(given.model_dump_json())
    with pytest.raises(InputError, match=r"99\.0\.0 at the center: install"):
        join.take(tmp_path / "admission", tmp_path / "site")


def test_an_invitation_that_has_ended(tmp_path: Path) -> None:
    invitation = write_invitation(tmp_path / "invitation", "2001-01-01")
    with pytest.raises(InputError, match="ended on 2001-01-01"):
        join.ask(invitation, tmp_path / "site", data=tmp_path, role="target")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "sonofed-admission-1"}'])
def test_files_that_are_no_invitation(tmp_path: Path, text: str) -> None:
    (tmp_path / "invitation").write_text(text)
    with pytest.raises(InputError, match="is no invitation"):
        join.ask(tmp_path / "invitation", tmp_path / "site", data=tmp_path, role="target")


def test_an_admission_without_keys(tmp_path: Path) -> None:
    ask(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        join.take(tmp_path / "none", tmp_path / "site")
