"""What a run leaves for the ethics file, and what it never does."""

import csv
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from common.config.study import Study
from scripts.study.place import RUN_FILE
from server.attendance import note
from server.consortium import membership
from server.consortium import register as registers
from server.consortium.place import Place
from tests.scripts.conftest import Command, Finished
from tests.server.consortium.test_membership import request

NAME = "Jane Doe"


@pytest.fixture
def run(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of a consortium of two, one of which the study does not know."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SONOFED_CONSORTIUM", "center")
    place = Place(tmp_path / "center")
    membership.found(place, "test", "127.0.0.1:9", "127.0.0.1:9", 9, 10)
    for name in ("ada", "bo", "eve"):
        membership.admit(place, request(place, name))
    folder = Path(shutil.copytree(finished.folder, place.runs / "mini"))
    (folder / RUN_FILE).write_text("7\n")
    refused = {
        "event": "refused", "training": "mim/mim", "round": 1, "site": "bo", "time": "now",
        "reason": f"refused here: metric '{NAME}': unexpected", "note": NAME,
    }  # fmt: skip
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(refused) + "\n")
    return folder


def exported(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_what_is_in_it(run: Path, sonofed: Command, finished: Finished) -> None:
    said = sonofed("study", "export", "--out", "one.zip")
    assert said.code == 0, said.err
    files = exported(Path("one.zip"))
    assert set(files) == {
        "README.md", "code.json", "consortium.json", "manifest.json", "metrics.jsonl",
        "receipts/receipts.jsonl", "receipts/receipts.jsonl.head", "receipts/receipts.key.pub",
        "report.html", "results.json", "study.json",
    }  # fmt: skip
    index = json.loads(files["manifest.json"])
    assert hashlib.sha256(files["manifest.json"]).hexdigest() in said.out
    assert set(index["files"]) == set(files) - {"manifest.json"}
    for name, listed in index["files"].items():
        assert listed == {
            "sha256": hashlib.sha256(files[name]).hexdigest(), "bytes": len(files[name]),
        }  # fmt: skip
    study = Study.model_validate_json((run / "study.json").read_bytes())
    assert index["digest"] == study.digest
    # What a hospital's policy names and its ledger holds.
    at_sites = hashlib.sha256(files["study.json"]).hexdigest()
    assert index["digest_at_sites"] == at_sites == study.for_sites().digest
    assert json.loads(files["results.json"]) == json.loads((run / "results.json").read_bytes())
    assert at_sites in files["README.md"].decode()
    register = registers.read(Place(Path("center")))
    told = json.loads(files["consortium.json"])
    assert set(told["sites"]) == {"ada", "bo"}
    (certificate,) = told["sites"]["bo"]["certificates"]
    assert certificate["sha256"] == register.site("bo").certificates[0].fingerprint


def test_the_same_run_gives_the_same_bytes(run: Path, sonofed: Command) -> None:
    for name in ("one.zip", "two.zip", "folder"):
        assert sonofed("study", "export", run, "--out", name).code == 0
    assert Path("one.zip").read_bytes() == Path("two.zip").read_bytes()
    found = {
        str(path.relative_to("folder")): path.read_bytes()
        for path in Path("folder").rglob("*")
        if path.is_file()
    }
    assert found == exported(Path("one.zip"))
    assert {path.name for path in Path().iterdir()} == {"center", "one.zip", "two.zip", "folder"}


def test_nothing_of_a_hospitals_own(run: Path, sonofed: Command, finished: Finished) -> None:
    secrets = [NAME, (run / "receipts.key").read_text().split("\n")[1]]
    for site, folder in (("ada", "linear_hd"), ("bo", "linear_pocket")):
        secrets += [folder, str(finished.root)]
        with (finished.root / folder / "index.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                secrets += [row["id"], row["image"]]
        # What the site keeps of the run: nothing of its tables is in the export.
        assert (run / "sites" / site / "scores.csv").exists()
    assert sonofed("study", "export", run, "--out", "one.zip").code == 0
    files = exported(Path("one.zip"))
    assert "a name that the study does not know" in files["metrics.jsonl"].decode()
    for name, content in files.items():
        for secret in dict.fromkeys(secrets):
            assert secret.encode() not in content, (name, secret)
    assert not [name for name in files if name.endswith((".key", ".safetensors"))]


def test_weights_only_when_asked_for(run: Path, sonofed: Command) -> None:
    assert sonofed("study", "export", run, "--out", "one.zip", "--weights").code == 0
    files = exported(Path("one.zip"))
    for path in (run / "ensemble").iterdir():
        assert files[f"weights/ensemble/{path.name}"] == path.read_bytes()
    index = json.loads(files["manifest.json"])["files"]
    assert any(name.endswith(".safetensors") for name in index)


def test_a_run_that_has_not_finished(run: Path, sonofed: Command) -> None:
    (run / "results.json").unlink()
    said = sonofed("study", "export", run, "--out", "one.zip")
    assert said.code == 2
    assert "has not finished" in said.err
    assert sonofed("study", "export", run, "--out", "one.zip", "--unfinished").code == 0
    files = exported(Path("one.zip"))
    assert "results.json" not in files
    assert json.loads(files["manifest.json"])["finished"] is False
    assert "It is not finished" in files["README.md"].decode()


def test_who_left_is_in_it(run: Path, sonofed: Command) -> None:
    note(run, "dropped", "bo", "no network")
    assert sonofed("study", "export", run, "--out", "one.zip").code == 0
    files = exported(Path("one.zip"))
    assert files["sites.jsonl"] == (run / "sites.jsonl").read_bytes().replace(
        b'": ', b'":'
    ).replace(b', "', b',"')
    assert "`sites.jsonl`" in files["README.md"].decode()


def test_receipts_that_were_changed(run: Path, sonofed: Command) -> None:
    path = run / "receipts.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"server"', b'"serves"', 1))
    said = sonofed("study", "export", run, "--out", "one.zip")
    assert said.code == 2
    assert "receipts.jsonl: is not sound" in said.err
    assert not Path("one.zip").exists()


def test_where_it_cannot_go(run: Path, sonofed: Command) -> None:
    Path("one.zip").touch()
    for out, words in (("one.zip", "is there already"), ("none/one.zip", "no such folder")):
        said = sonofed("study", "export", run, "--out", out)
        assert said.code == 2
        assert words in said.err
    said = sonofed("study", "export", "nowhere", "--out", "two.zip")
    assert said.code == 2
    assert "is no run of a consortium" in said.err
