"""What purge removes, what it leaves, and that the ledger says so without naming anybody."""

import errno
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from clients.gate.book import Book
from clients.gate.spool import Spool
from clients.purge import purge_all, purge_patient, purge_study
from common.errors import InputError
from common.ledger_check import read, verify
from scripts.site.keep import backup
from tests.clients.gate.center import Center, Keys
from tests.clients.gate.here import gate_here
from tests.clients.gate.world import instruction
from tests.clients.hospital import Hospital, hospital

LABELS = "id,label,reader,time,image_sha256\n"
OUTLINES = "id,outline,reader,time,image_sha256\n"
ANNAS, BOTHS = "aa" * 32, "bb" * 32


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def place(tmp_path: Path, keys: Keys) -> Hospital:
    """A site at which two studies have left something."""
    made = hospital(tmp_path / "west", keys)
    made.put("cache/key/images.npy", b"pixels")
    for study in ("wrist-12345678", "wrist-87654321", "lung-12345678"):
        made.put(f"work/{study}/predictions/mim.npy", b"numbers")
        made.put(f"work/{study}/selection/dual/20/worklist.csv", "id,rank\ni0,1\ni2,2\n")
        made.put(f"work/{study}/labels.csv", f"{LABELS}i1,benign,r,t,s\ni2,benign,r,t,s\n")
        made.put(f"work/{study}/outlines.csv", f"{OUTLINES}i0,{ANNAS},r,t,s\ni0,{BOTHS},r,t,s\n"
                 f"i3,{BOTHS},r,t,s\n")  # fmt: skip
        made.put(f"work/{study}/outlines/{ANNAS}.png", b"anna's")
        made.put(f"work/{study}/outlines/{BOTHS}.png", b"both's")
    with Book(made.folder / "gate", "west", "gate"):
        pass
    return made


def files(place: Hospital, below: str = "") -> set[str]:
    root = place.folder / below
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def event(place: Hospital) -> dict[str, object]:
    ledger = place.folder / "gate" / "ledger.jsonl"
    assert verify(ledger).problem is None
    return dict(list(read(ledger))[-1].event)


def test_a_study(place: Hospital) -> None:
    before = files(place)
    gone = purge_study(place.site, "wrist")
    removed = before - files(place)
    assert removed == {name for name in before if name.startswith("work/wrist-")}
    assert gone.files == len(removed) == 12
    told = event(place)
    assert told == {"kind": "purged", "what": "study", "files": 12, "bytes": gone.bytes,
                    "digest": gone.digest}  # fmt: skip


def test_of_a_study_that_is_not_here(place: Hospital) -> None:
    with pytest.raises(InputError, match=r"'heart'; there are lung, wrist"):
        purge_study(place.site, "heart")


def test_folders_beside_the_studies_are_none(place: Hospital) -> None:
    """Flower's bundles and temporary files lie there too; `--all` takes them along."""
    for name in ("flower", "tmp", "poc-1"):
        place.put(f"work/{name}/x", b"x")
    with pytest.raises(InputError, match=r"'flower'; there are lung, wrist$"):
        purge_study(place.site, "flower")
    with pytest.raises(InputError, match=r"''; there are lung, wrist$"):
        purge_study(place.site, "")
    purge_all(place.site)
    assert not files(place, "work")


def test_a_patient(place: Hospital) -> None:
    purge_patient(place.site, "anna")
    assert not (place.folder / "cache").exists()
    for study in ("wrist-12345678", "lung-12345678"):
        folder = place.folder / "work" / study
        assert files(place, f"work/{study}") == {
            "selection/dual/20/worklist.csv", "labels.csv", "outlines.csv", f"outlines/{BOTHS}.png"
        }  # fmt: skip
        assert (folder / "labels.csv").read_text() == f"{LABELS}i2,benign,r,t,s\n"
        assert (folder / "outlines.csv").read_text() == f"{OUTLINES}i3,{BOTHS},r,t,s\n"
        assert (folder / "selection/dual/20/worklist.csv").read_text() == "id,rank\ni2,2\n"
    assert event(place)["what"] == "patient"
    assert "anna" not in (place.folder / "gate" / "ledger.jsonl").read_text()
    # The hospital's own data are the hospital's.
    assert (place.folder / "data/us/0.png").exists()


def test_an_unknown_patient(place: Hospital) -> None:
    before = files(place)
    with pytest.raises(InputError, match="no row has this patient"):
        purge_patient(place.site, "dora")
    assert files(place) == before


def test_everything_but_keys_policy_and_ledger(place: Hospital) -> None:
    purge_all(place.site)
    left = files(place)
    assert not [name for name in left if name.startswith(("work/", "cache/"))]
    assert {"gate/node.key", "gate/ledger.jsonl", "gate/ledger.key", "policy.toml"} <= left


def test_not_under_a_gate_at_work(place: Hospital) -> None:
    before = files(place)
    spool = Spool(place.folder / "gate" / "spool")
    try:
        with pytest.raises(InputError, match="site down"):
            purge_all(place.site)
    finally:
        spool.close()
    assert before <= files(place)


def test_an_instruction_in_the_spool_goes_with_its_study(place: Hospital, keys: Keys) -> None:
    """A real one, fetched by a real gate, and left unanswered."""
    gate = place.folder / "gate"
    with Center(keys) as center, gate_here(gate, center) as here:
        here.courier.make_known()
        here.gate.heard()
        center.ask(instruction())
        for _ in range(500):
            if here.gate.standing("open"):
                break
            here.gate.stopping.wait(0.02)
        assert here.gate.standing("open")
    with pytest.raises(InputError, match="nothing is here"):
        purge_study(place.site, "heart")
    exchanges = gate / "spool" / "exchanges"
    assert len(list(exchanges.iterdir())) == 1
    purge_study(place.site, "wrist")
    assert not list(exchanges.iterdir())


def test_a_backup_has_what_cannot_be_made_again(place: Hospital, tmp_path: Path) -> None:
    to = tmp_path / "west.tar.gz"
    backup(to, place.file)
    assert to.stat().st_mode & 0o077 == 0
    with tarfile.open(to) as packed:
        names = set(packed.getnames())
    assert {
        "site.toml", "policy.toml", "wrist.manifest.json", "gate/node.key", "gate/ledger.jsonl",
        "gate/ledger.key", "keys/site.key", "work/lung-12345678/labels.csv",
        f"work/lung-12345678/outlines/{ANNAS}.png",
    } <= names  # fmt: skip
    assert not [name for name in names if "cache" in name or name.endswith(".npy")]
    assert not [name for name in names if name.startswith("data")]
    with pytest.raises(InputError, match="there already"):
        backup(to, place.file)


def test_half_a_backup_is_none(
    place: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills: one sentence, and no file that looks like a backup."""
    to = tmp_path / "backups" / "west.tar.gz"
    to.parent.mkdir()
    add, many = tarfile.TarFile.add, iter(range(3))

    def full(self: tarfile.TarFile, *given: Any, **named: Any) -> None:
        if next(many, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "add", full)
        with pytest.raises(InputError, match="No space left on device; no backup was made"):
            backup(to, place.file)
    assert not list(to.parent.iterdir())
    backup(to, place.file)
