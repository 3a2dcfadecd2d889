"""The coordinator's and the site's commands, from founding to a start that is refused in words."""

import json
import os
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clients import join, preflight
from common.joining import Admission, read_file
from server.consortium import register as registers
from server.consortium.place import Place
from tests.scripts.conftest import Command


@pytest.fixture
def center(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sonofed: Command) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SONOFED_CONSORTIUM", "center")
    said = sonofed("consortium", "init", "center", "--address", "127.0.0.1:9443")
    assert said.code == 0, said.err
    return tmp_path / "center"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "index.csv").write_text("id,file\n")
    return folder


def joined(sonofed: Command, images: Path, name: str = "ada") -> Path:
    site = Path(name)
    for command in (
        ["consortium", "invite", name],
        ["site", "join", f"{name}.invitation", "--folder", site, "--data", images],
        ["consortium", "admit", site / f"{name}.request"],
        ["site", "join", "--admission", f"{name}.admission", "--folder", site],
    ):
        said = sonofed(*command)
        assert said.code == 0, (command, said.err)
    return site


def test_joining_word_for_word(center: Path, images: Path, sonofed: Command) -> None:
    site = joined(sonofed, images)
    assert (site / join.CERTIFICATE).exists()
    assert Path("ada.invitation").stat().st_mode & 0o077 == 0
    member = registers.read(Place(center)).site("ada")
    assert member.ledger_key
    assert "ProtectSystem" in (center / "sonofed-consortium.service").read_text()
    assert "127.0.0.1" not in (center / "compose.yaml").read_text()
    assert str(site.absolute()) in (site / "sonofed-site.service").read_text()


def test_the_front_stays_on_loopback_until_told(center: Path, sonofed: Command) -> None:
    assert registers.read(Place(center)).listen == "127.0.0.1:9443"
    said = sonofed(
        "consortium", "init", "other", "--address", "c.example:1", "--listen", "0.0.0.0:1"
    )
    assert said.code == 0
    assert registers.read(Place(Path("other"))).listen == "0.0.0.0:1"


def test_a_request_is_good_once(center: Path, images: Path, sonofed: Command) -> None:
    site = joined(sonofed, images)
    said = sonofed("consortium", "admit", site / "ada.request")
    assert said.code == 2
    assert "used already" in said.err


def test_an_admission_for_other_keys(center: Path, images: Path, sonofed: Command) -> None:
    joined(sonofed, images)
    joined(sonofed, images, "bo")
    said = sonofed("site", "join", "--admission", "ada.admission", "--folder", "bo")
    assert said.code == 2
    assert "is not for the keys" in said.err


def test_an_admission_of_another_authority(center: Path, images: Path, sonofed: Command) -> None:
    joined(sonofed, images)
    sonofed("consortium", "init", "other", "--address", "127.0.0.1:1")
    given = read_file(Path("ada.admission"), Admission)
    forged = given.model_copy(
        update={"certificate": (Path("other") / "authority" / "ca.pem").read_text()}
    )
    Path("forged").write_text(forged.model_dump_json())
    said = sonofed("site", "join", "--admission", "forged", "--folder", "ada")
    assert said.code == 2
    assert "is not signed by the authority that invited" in said.err


def test_renewing_and_revoking(center: Path, images: Path, sonofed: Command) -> None:
    site = joined(sonofed, images)
    assert sonofed("consortium", "renew", "ada").code == 0
    for command in (
        ["site", "join", "ada.invitation", "--folder", site],
        ["consortium", "admit", site / "ada.request"],
        ["site", "join", "--admission", "ada.admission", "--folder", site],
    ):
        said = sonofed(*command)
        assert said.code == 0, said.err
    assert len(registers.read(Place(center)).site("ada").certificates) == 2
    assert sonofed("consortium", "revoke", "ada").code == 0
    assert registers.read(Place(center)).site("ada").revoked is not None
    said = sonofed("consortium", "revoke", "eve")
    assert said.code == 2
    assert "is no site of this consortium (its sites: ada)" in said.err


def test_status_of_what_is_down(center: Path, images: Path, sonofed: Command) -> None:
    joined(sonofed, images)
    sonofed("consortium", "invite", "bo")
    said = sonofed("consortium", "status")
    assert said.code == 1
    assert "DOWN" in said.out
    assert re.search(r"bo .*invited", said.out)
    told = json.loads(sonofed("consortium", "status", "--json").out)
    assert told["up"] is False
    assert set(told["sites"]) == {"ada"}


def test_certificates_that_end_soon_are_told(center: Path, images: Path, sonofed: Command) -> None:
    joined(sonofed, images)
    with registers.changing(Place(center)) as register:
        register.sites["ada"].certificates[0].expires = datetime.now(UTC) + timedelta(days=9.5)
    assert "ends in 9 days: renew" in sonofed("consortium", "status").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["join"], "give an invitation, or --admission FILE"),
        (["join", "none.invitation", "--data", "images"], "no such file"),
        (["join", "ada.invitation"], "say where this site's images are"),
        (["join", "ada.invitation", "--data", "nowhere"], "no such folder"),
        (["join", "--admission", "ada.invitation"], "is no admission"),
    ],
)
def test_wrong_joining(
    center: Path, images: Path, sonofed: Command, arguments: list[str], words: str
) -> None:
    sonofed("consortium", "invite", "ada")
    said = sonofed("site", *arguments)
    assert said.code == 2
    assert words in said.err


def test_a_site_that_is_not_ready_does_not_start(
    center: Path, images: Path, sonofed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything at once, each with what to do."""
    site = joined(sonofed, images)
    (images / "index.csv").unlink()
    (site / join.SITE_KEY).chmod(0o644)
    monkeypatch.setattr(preflight, "can_be_shut_in", lambda: False)
    said = sonofed("site", "up", "--site", site / "site.toml")
    assert said.code == 2
    for words in (
        "no such policy", "no index.csv in", "chmod 600", "lets no process into an empty",
    ):  # fmt: skip
        assert words in said.err, words
    assert ("name a system user for training" in said.err) == (os.getuid() == 0)


def test_down_where_nothing_runs(center: Path, images: Path, sonofed: Command) -> None:
    site = joined(sonofed, images)
    assert "nothing was running" in sonofed("consortium", "down").out
    assert "nothing was running" in sonofed("site", "down", "--site", site / "site.toml").out
    said = sonofed("site", "status", "--site", site / "site.toml")
    assert said.code == 1
    assert "ada: DOWN, speaks to 127.0.0.1:9443 alone" in said.out


def test_a_port_that_is_taken(center: Path, sonofed: Command) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with registers.changing(Place(center)) as register:
            register.listen = f"127.0.0.1:{other.getsockname()[1]}"
        said = sonofed("consortium", "up")
    assert said.code == 2
    assert "the front cannot listen on 127.0.0.1" in said.err
    assert "Address already in use" in said.err


def test_studies_where_nothing_runs(center: Path, tmp_path: Path, sonofed: Command) -> None:
    assert "no run yet" in sonofed("study", "list").out
    said = sonofed("study", "watch")
    assert said.code == 2
    assert "`sonofed study submit` starts one" in said.err
    said = sonofed("study", "list", "--consortium", tmp_path / "nothing")
    assert said.code == 2
    assert "`sonofed consortium init` makes one" in said.err


def test_a_study_with_sites_that_are_no_members(center: Path, sonofed: Command) -> None:
    study = Path(__file__).resolve().parents[3] / "configs" / "poc.toml"
    said = sonofed("study", "submit", study)
    assert said.code == 2
    assert "riverside, hillcrest, lakeview: no sites of the consortium" in said.err


def test_a_rehearsal_that_there_is_not(tmp_path: Path, sonofed: Command) -> None:
    for command in ("status", "down"):
        said = sonofed("poc", command, "--folder", tmp_path)
        assert said.code == 2
        assert "`sonofed poc up` makes one" in said.err
