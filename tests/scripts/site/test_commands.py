"""What a hospital types before anything runs: joining, looking, starting, in plain words."""

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clients import reach as reaching
from clients.finding import Finding
from common.config.load import load_study
from common.joining import Admission
from scripts.site import run as running
from tests.clients.gate.center import Center, Keys
from tests.clients.hospital import Hospital, hospital
from tests.clients.test_join import ADDRESS, MOVED, write_invitation
from tests.scripts.conftest import Command, write_study


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    return tmp_path


def test_joining_says_what_it_took(here: Path, sonofed: Command) -> None:
    """Whoever forgot the role sees what the site has become."""
    write_invitation(Path("ada.invitation"), study="ab" * 32)
    said = sonofed("site", "join", "ada.invitation", "--data", "images")
    assert said.code == 0, said.err
    assert f"ada is a target (its masks only judge); its images: {here / 'images'}" in said.out
    assert "ab" * 32 in said.out
    said = sonofed("site", "join", "ada.invitation", "--role", "source")
    assert (said.code, "change it there" in said.err) == (2, True)


def test_a_center_that_has_moved(here: Path, sonofed: Command) -> None:
    write_invitation(Path("ada.invitation"))
    sonofed("site", "join", "ada.invitation", "--data", "images")
    write_invitation(Path("ada.invitation"), address=MOVED)
    said = sonofed("site", "join", "ada.invitation")
    assert f"the center has moved; its address was {ADDRESS}, and is {MOVED}" in said.out
    path = Path("site/site.toml")
    path.write_text(path.read_text().replace(MOVED, "relay:1"))
    said = sonofed("site", "join", "ada.invitation")
    assert f"keeps relay:1, which you chose; the center calls itself {MOVED}" in said.out


@pytest.mark.parametrize("folder", ["/proc/x", "/dev/null/x"])
def test_a_folder_that_cannot_be(here: Path, sonofed: Command, folder: str) -> None:
    write_invitation(Path("ada.invitation"))
    said = sonofed("site", "join", "ada.invitation", "--data", "images", "--folder", folder)
    assert (said.code, folder in said.err) == (2, True)


def test_what_comes_after_the_admission(
    here: Path, sonofed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_invitation(Path("ada.invitation"))
    sonofed("site", "join", "ada.invitation", "--data", "images")
    given = Admission(
        consortium="test", site="ada", address=ADDRESS, ca="CA", certificate="PEM", node_id=1,
        expires=datetime(2100, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    monkeypatch.setattr("clients.join.take", lambda *_: given)
    monkeypatch.setattr("os.getuid", lambda: 0)
    said = sonofed("site", "join", "--admission", "any")
    for words in (
        "policy.toml", "gate policy manifest", "gate approve", "site check", "site up",
        "[network] user",
    ):  # fmt: skip
        assert words in said.out, words


def test_down_of_a_file_that_is_not_there(here: Path, sonofed: Command) -> None:
    said = sonofed("site", "down", "--site", "nosuch.toml")
    assert (said.code, "nosuch.toml: no such file" in said.err) == (2, True)


def test_a_clock_that_is_far_off_keeps_from_starting(
    tmp_path: Path, keys: Keys, sonofed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "SKEW_FAIL_S", -1.0)
    with Center(keys) as center:
        place = hospital(tmp_path / "west", keys, center.address)
        said = sonofed("site", "up", "--site", place.file)
    assert said.code == 2
    assert "clock: " in said.err
    assert "time synchronisation" in said.err


def test_a_center_that_is_away_keeps_nobody_from_starting(tmp_path: Path, keys: Keys) -> None:
    place = hospital(tmp_path / "west", keys)
    assert not [f for f in running._looked_at(place.site) if f.standing == "fail"]


def test_a_port_that_is_taken(tmp_path: Path, keys: Keys, sonofed: Command) -> None:
    place = hospital(tmp_path / "west", keys)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        place.change("[gate]", f'[gate]\nlisten = "{listen}"')
        said = sonofed("site", "up", "--site", place.file)
    assert said.code == 2
    assert f"{listen} cannot be had (Address already in use)" in said.err


def test_status_says_whether_the_center_takes_the_site(
    tmp_path: Path, keys: Keys, sonofed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Center(keys) as center:
        place = hospital(tmp_path / "west", keys, center.address)
        said = sonofed("site", "status", "--site", place.file)
    assert f"server: {center.address} answers and takes this site's certificate" in said.out
    assert "firewall rule" in sonofed("site", "status", "--site", place.file).out
    refused = Finding("server", "fail", "it does not take this site's certificate", "ask")
    monkeypatch.setattr(running, "reach", lambda *_: iter([refused]))
    assert "it does not take" in sonofed("site", "status", "--site", place.file).out


def checked(sonofed: Command, place: Hospital, study: Path) -> str:
    said = sonofed("site", "check", "--site", place.file, "--study", study)
    assert said.code == 1
    return " ".join(said.out.split())


def test_check_with_the_studys_file(tmp_path: Path, keys: Keys, sonofed: Command) -> None:
    """Both digests, and what the policy would refuse."""
    place = hospital(tmp_path / "west", keys)
    study = write_study(tmp_path / "mini.toml")
    digest = load_study(study).for_sites().digest
    place.put("keys/center.json", json.dumps({"study": "ab" * 32}))
    told = checked(sonofed, place, study)
    assert "ab" * 32 in told
    assert digest in told
    assert "study mini: stands not in [studies]" in told
    place.put("keys/center.json", json.dumps({"study": digest}))
    assert "the invitation names" not in checked(sonofed, place, study).partition("this study")[2]
