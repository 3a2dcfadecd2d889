"""Whether a site can take part: each thing that is wrong is found, and said with a remedy."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from clients import reach as module
from clients.finding import Finding
from clients.preflight import preflight
from clients.reach import reach
from tests.clients.gate.center import Center, Keys
from tests.clients.hospital import Hospital, hospital


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.make(tmp_path_factory.mktemp("keys"))


def found(place: Hospital) -> dict[str, Finding]:
    return {finding.what: finding for finding in preflight(place.site)}


def test_a_sound_site(tmp_path: Path, keys: Keys) -> None:
    with Center(keys) as center:
        place = hospital(tmp_path / "west", keys, center.address)
        findings = found(place)
    assert not [f for f in findings.values() if f.standing == "fail"], findings
    assert findings["data"].words == "4 images of 3 patients"
    assert findings["server"].standing == "ok"
    assert findings["clock"].standing == "ok"
    assert findings["policy"].words == "wrist; 1 code bundles approved"
    assert findings["shut in"].standing == "warn"
    assert not center.calls, "looking asks the server for nothing"


Spoil = Callable[[Hospital], object]
SPOILT: dict[str, tuple[str, Spoil, str]] = {
    "no manifest": ("data", lambda p: (p.folder / "data/us/index.csv").unlink(), "no index.csv"),
    "broken manifest": (
        "data", lambda p: p.put("data/us/index.csv", "id,image\na,b\n"), "is not there"
    ),
    "no policy": ("policy", lambda p: (p.folder / "policy.toml").unlink(), "no such policy"),
    "another's policy": (
        "policy",
        lambda p: p.put(
            "policy.toml", (p.folder / "policy.toml").read_text().replace('"west"', '"north"')
        ),
        "policy of north",
    ),
    "another manifest": ("policy", lambda p: p.put("wrist.manifest.json", "{}"), "SHA-256"),
    "no node key": ("node key", lambda p: (p.folder / "gate/node.key").unlink(), "not there"),
    "open key": ("certificate's key", lambda p: (p.folder / "keys/site.key").chmod(420), "others"),
    "no certificate": ("certificate", lambda p: p.change("site.pem", "gone.pem"), "no certificate"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_wrong_is_named_with_a_remedy(tmp_path: Path, keys: Keys, case: str) -> None:
    what, spoil, words = SPOILT[case]
    place = hospital(tmp_path / "west", keys)
    spoil(place)
    finding = found(place)[what]
    assert finding.standing == "fail"
    assert words in finding.words
    assert finding.remedy


def test_nobody_at_the_address(tmp_path: Path, keys: Keys) -> None:
    (finding,) = reach(hospital(tmp_path / "west", keys).site)
    assert finding.standing == "fail"
    assert "firewall rule" in finding.remedy


def test_a_server_of_another_authority(tmp_path: Path, keys: Keys) -> None:
    other = Keys.make(tmp_path / "others")
    with Center(other) as center:
        (finding,) = reach(hospital(tmp_path / "west", keys, center.address).site)
    assert finding.standing == "fail"
    assert "the consortium's" in finding.words or "certificate" in finding.words
    assert "opens TLS" in finding.remedy


@pytest.mark.parametrize(
    ("ahead", "standing"), [(0, "ok"), (20, "warn"), (-20, "warn"), (3600, "fail"), (-3600, "fail")]
)
def test_clocks(ahead: float, standing: str) -> None:
    told = format_datetime(datetime.now(UTC) - timedelta(seconds=ahead), usegmt=True)
    (finding,) = module._clock(told)
    assert finding.standing == standing
    if abs(ahead) > 60:
        assert ("ahead of" if ahead > 0 else "behind") in finding.words


def test_a_full_disk(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    place = hospital(tmp_path / "west", keys)
    usage = shutil._ntuple_diskusage(10**9, 10**9, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    findings = found(place)
    assert {n for n, f in findings.items() if n.startswith("disk") and f.standing == "fail"} == {
        "disk, gate", "disk, work", "disk, cache",
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_images_that_cannot_be_read(tmp_path: Path, keys: Keys) -> None:
    place = hospital(tmp_path / "west", keys)
    (place.folder / "data/us/0.png").chmod(0)
    assert "1 of 4 images" in found(place)["data"].words


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize(
    ("user", "words"), [("", "names nobody"), ("no-such-user", "knows no user 'no-such-user'")]
)
def test_root_needs_somebody_to_train_as(tmp_path: Path, keys: Keys, user: str, words: str) -> None:
    place = hospital(tmp_path / "west", keys)
    place.change('user = "root"', f'user = "{user}"')
    finding = found(place)["user"]
    assert (finding.standing, words in finding.words) == ("fail", True)
