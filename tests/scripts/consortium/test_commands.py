"""The coordinator's and the site's commands, from founding to a start that is refused in words."""

import json
import os
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from clients import join, preflight
from common.joining import Admission, read_file
from common.keeper import lock_of, take_lock
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
    assert str(site.absolute()) in (site / "sonofed-site.service").read_text()


def test_the_front_stays_on_loopback_until_told(center: Path, sonofed: Command) -> None:
    assert registers.read(Place(center)).listen == "127.0.0.1:9443"
    said = sonofed(
        "consortium", "init", "other", "--address", "c.example:1", "--listen", "0.0.0.0:1"
    )
    assert said.code == 0
    assert registers.read(Place(Path("other"))).listen == "0.0.0.0:1"


def test_a_request_gets_the_same_answer_again(center: Path, images: Path, sonofed: Command) -> None:
    site = joined(sonofed, images)
    first = Path("ada.admission").read_bytes()
    Path("ada.admission").unlink()
    assert sonofed("consortium", "admit", site / "ada.request").code == 0
    assert Path("ada.admission").read_bytes() == first
    # Made anew with the same invitation it is another request.
    assert sonofed("site", "join", "ada.invitation", "--folder", site).code == 0
    said = sonofed("consortium", "admit", site / "ada.request")
    assert said.code == 2
    assert "used already" in said.err


def test_a_newcomer_is_told_what_comes_next(center: Path, images: Path, sonofed: Command) -> None:
    out = sonofed("consortium", "init", "consortium", "--address", "127.0.0.1:9443").out
    assert "consortium: founded, reached at 127.0.0.1:9443" in out
    assert out.index("next: sonofed consortium up\n") < out.index("invite SITE\n")
    out = sonofed("consortium", "init", "two", "--name", "wrist", "--address", "127.0.0.1:1").out
    assert "two: founded as wrist" in out
    assert "next: sonofed consortium up --consortium two\n" in out
    said = sonofed("consortium", "invite", "ada")
    assert said.out.startswith("ada.invitation: for ada")
    said = sonofed("consortium", "admit", "ada.invitation")
    assert said.code == 2
    assert "is no request but an invitation; SITE.request, made by" in said.err


def test_admitting_while_nothing_runs_says_so(center: Path, images: Path, sonofed: Command) -> None:
    site = Path("ada")
    sonofed("consortium", "invite", "ada")
    sonofed("site", "join", "ada.invitation", "--folder", site, "--data", images)
    said = sonofed("consortium", "admit", site / "ada.request")
    assert said.code == 0
    assert "takes effect with `sonofed consortium up`" in said.out


def test_a_file_that_cannot_be_written_uses_nothing_up(
    center: Path, images: Path, sonofed: Command
) -> None:
    said = sonofed("consortium", "invite", "ada", "--out", "none/there/ada")
    assert said.code == 2
    assert "none/there/ada: cannot be written" in said.err
    assert not Path("none").exists()
    assert not registers.read(Place(center)).invitations
    sonofed("consortium", "invite", "ada")
    sonofed("site", "join", "ada.invitation", "--folder", "ada", "--data", images)
    request = Path("ada") / "ada.request"
    assert sonofed("consortium", "admit", request, "--out", "none/there").code == 2
    assert not registers.read(Place(center)).sites
    assert sonofed("consortium", "admit", request).code == 0


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf", "1e12"])
def test_days_that_are_none(center: Path, sonofed: Command, days: str) -> None:
    for command in (["invite", "ada"], ["admit", "ada.request"]):
        said = sonofed("consortium", *command, "--days", days)
        assert said.code == 2
        assert "must be more than 0, and 3650 at most" in said.err
    assert not registers.read(Place(center)).invitations


def test_a_name_that_is_not_new_is_said(center: Path, images: Path, sonofed: Command) -> None:
    joined(sonofed, images)
    assert "is a member already: this renews" in sonofed("consortium", "invite", "ada").out
    assert "already" not in sonofed("consortium", "invite", "bo").out
    said = sonofed("consortium", "invite", "bo").out
    assert "bo has been invited already" in said
    assert "another hospital needs another name" in said


def test_a_container_of_the_center(center: Path, sonofed: Command) -> None:
    text = (center / "compose.yaml").read_text()
    told = yaml.safe_load(text)["services"]["consortium"]
    # Reached from outside where the register says, and in there on every address.
    assert told["ports"] == ["127.0.0.1:9443:9443"]
    assert told["command"][-1] == "--listen=0.0.0.0:9443"
    assert told["volumes"] == [f"{center}:/consortium"]
    assert Path(told["build"]["dockerfile"]).exists()
    ignored = (center / "Dockerfile.dockerignore").read_text().splitlines()
    checkout = Path(told["build"]["context"])
    assert all((checkout / line[1:]).exists() for line in ignored if line.startswith("!"))
    for file in ("compose.yaml", "Dockerfile"):
        assert "Not yet tried with docker itself" in (center / file).read_text()
    sonofed("consortium", "init", "out", "--address", "c.example:1", "--listen", "0.0.0.0:1")
    told = yaml.safe_load(Path("out/compose.yaml").read_text())["services"]["consortium"]
    assert told["ports"] == ["1:1"]


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
    for again in ("renew", "invite"):
        said = sonofed("consortium", again, "ada")
        assert said.code == 2
        assert "was revoked on" in said.err
        assert "sonofed consortium invite ada --again" in said.err
    assert sonofed("consortium", "invite", "ada", "--again").code == 0
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


def test_what_runs_in_a_container_is_not_told_from_outside(
    center: Path, images: Path, sonofed: Command
) -> None:
    """Its processes' numbers are others' here."""
    site = joined(sonofed, images)
    status = Place(center).status
    lock = take_lock(status)
    told = json.loads(lock_of(status).read_text())
    lock_of(status).write_text(json.dumps({**told, "namespace": "pid:[1] elsewhere"}))
    try:
        for command in (["down"], ["revoke", "ada"], ["admit", site / "ada.request"]):
            said = sonofed("consortium", *command)
            assert said.code == 2
            assert "docker compose exec" in said.err
    finally:
        os.close(lock)
    assert registers.read(Place(center)).site("ada").revoked is None
