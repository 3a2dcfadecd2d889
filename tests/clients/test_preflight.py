"""Whether a site can take part: each thing that is wrong is found, and said with a remedy."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from clients import preflight as preflight_module
from clients import reach as module
from clients.finding import Finding
from clients.preflight import preflight
from clients.reach import reach
from common.versions import versions
from tests.clients.gate.center import Center, Keys
from tests.clients.hospital import Hospital, hospital

DIGEST, OTHER = "ab" * 32, "cd" * 32


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


def told(place: Hospital, **center: object) -> None:
    """What the center has said of itself."""
    place.put("keys/center.json", json.dumps(center))


def hold(place: Hospital, digest: str) -> None:
    """Have the policy hold a study's own digest."""
    text = (place.folder / "policy.toml").read_text()
    place.put("policy.toml", text.replace("[stages]", f'digest = "{digest}"\n[stages]'))


def test_what_the_center_has_agrees(tmp_path: Path, keys: Keys) -> None:
    place = hospital(tmp_path / "west", keys)
    told(place, versions=versions(), study=DIGEST)
    hold(place, DIGEST)
    findings = found(place)
    for what in ("versions", "study", "study wrist"):
        assert findings[what].standing == "ok", findings[what]


def test_another_study_than_the_policy_holds(tmp_path: Path, keys: Keys) -> None:
    """Both digests are shown."""
    place = hospital(tmp_path / "west", keys)
    told(place, study=DIGEST)
    finding = found(place)["study"]
    assert finding.standing == "warn"
    assert DIGEST in finding.words
    hold(place, OTHER)
    finding = found(place)["study"]
    assert finding.standing == "fail"
    assert DIGEST in finding.words
    assert OTHER in finding.words


@pytest.mark.parametrize(
    ("package", "version", "standing"),
    [
        ("sonofed", "99.0.0", "fail"),
        ("flwr", "99.0.0", "fail"),
        # The center may have been upgraded since it last wrote.
        ("sonofed", "0.0.1", "warn"),
    ],
)
def test_another_version_than_the_center_has(
    tmp_path: Path, keys: Keys, package: str, version: str, standing: str
) -> None:
    place = hospital(tmp_path / "west", keys)
    told(place, versions={package: version})
    finding = found(place)["versions"]
    assert finding.standing == standing
    assert f"{package} is {versions()[package]} here and {version} at the center" in finding.words


def test_a_policy_that_does_not_cover_its_studies(tmp_path: Path, keys: Keys) -> None:
    place = hospital(tmp_path / "west", keys)
    text = (place.folder / "policy.toml").read_text()
    place.put("policy.toml", text.replace('"*" = {}', "loss = {}", 1))
    finding = found(place)["study wrist"]
    assert (finding.standing, "metric patients" in finding.words) == ("warn", True)
    place.put("policy.toml", text.replace("mim = {}", "mim = { message_mb = 1e-6 }"))
    assert "weights of mim" in found(place)["study wrist"].words
    place.put("policy.toml", text.replace("mim = {}", "enrol = {}"))
    finding = found(place)["study wrist"]
    assert (finding.standing, finding.words) == ("fail", "the policy allows none of its stages")


def test_a_damaged_word_of_the_center(tmp_path: Path, keys: Keys) -> None:
    place = hospital(tmp_path / "west", keys)
    place.put("keys/center.json", "{")
    finding = found(place)["center"]
    assert (finding.standing, "is damaged" in finding.words) == ("fail", True)


def test_what_lies_below_root_has_a_hint() -> None:
    assert "/opt" in preflight_module._way_in(["/data/index.csv", "/root/.venv/bin/python"])
    assert "/opt" not in preflight_module._way_in(["/data/index.csv"])


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
