"""Equal trainings: taken from a sibling run, and never from one that only looks alike."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from clients.site_list import read_sites
from common.config.load import load_study
from common.plan import make_plan
from scripts import share
from scripts.share import identity_file, take_equal, write_identities
from scripts.simulate import Engine, run_study_here
from tests.scripts.conftest import Finished, write_study

TIMES = ("seconds", "time", "taken_from")


def lines(path: Path, key: str) -> list[Mapping[str, object]]:
    """What a file's lines say of a training, times aside."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in found
        if line.get("training") == key
    ]


def test_a_shared_training_gives_the_results_of_a_fresh_one(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study(write_study(tmp_path / "mini.toml", '["mim", "lower"]'))
    fresh, shared = tmp_path / "fresh", tmp_path / "shared"
    run_study_here(study, Engine.inprocess, finished.root, fresh, resume=False)
    capsys.readouterr()
    run_study_here(
        study, Engine.inprocess, finished.root, shared, resume=False, share=finished.folder.parent
    )
    said = capsys.readouterr().out
    for key in ("mim/mim", "mim/finetune_mim", "lower/lower"):
        assert f"{key}: taken from" in said
        assert identity_file(shared, key).read_bytes() == identity_file(fresh, key).read_bytes()
        assert lines(shared / "metrics.jsonl", key) == lines(fresh / "metrics.jsonl", key)
        for site in ("ada", "bo"):
            there = shared / "sites" / site / "epochs.jsonl"
            if there.exists():
                assert lines(there, key) == lines(fresh / "sites" / site / "epochs.jsonl", key)
        weights = [
            next((run / "state" / key).glob("weights-*.safetensors")) for run in (shared, fresh)
        ]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    for name in ("results.json", "ensemble/config.json"):
        assert (shared / name).read_bytes() == (fresh / name).read_bytes()
    assert json.loads((shared / "metrics.jsonl").read_text().splitlines()[0])["event"] == "study"


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """The finished run as a sibling that may be spoilt."""
    return Path(shutil.copytree(finished.folder, tmp_path / "runs" / "sibling"))


def taken(finished: Finished, beside: Path, *overrides: str) -> set[str]:
    """What a new run beside the sibling would take."""
    study = load_study(finished.study, overrides)
    plan = make_plan(study)
    folder = beside / "new"
    shutil.rmtree(folder, ignore_errors=True)
    sites = {site.name: site for site in read_sites(finished.folder / "sites" / "sites.json")}
    identities = write_identities(study, plan, folder, sites)
    return set(take_equal(study, plan, folder, identities, beside))


def test_what_a_setting_touches_is_trained_anew(finished: Finished, copied: Path) -> None:
    everything = {"mim/mim", "mim/finetune_mim", "lower/lower", "upper/upper"}
    beside = copied.parent
    assert taken(finished, beside) == everything
    assert taken(finished, beside, "evaluate.bootstrap=200", "compute.jobs=2") == everything
    assert taken(finished, beside, "contrastive.epochs=7") == everything
    assert taken(finished, beside, "mim.ratio=0.5") == {"lower/lower", "upper/upper"}
    assert taken(finished, beside, "finetune.epochs=2") == {"mim/mim"}
    for everywhere in ("seed=1", "model.dropout=0.2", "wire.dtype=float16", "compute.threads=2",
                       "federation.weighting=equal"):  # fmt: skip
        assert taken(finished, beside, everywhere) == set()


def test_another_code_shares_nothing(
    finished: Finished, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "code_digest", lambda: "other")
    assert taken(finished, copied.parent) == set()


def test_unfinished_and_refused_trainings_are_not_taken(finished: Finished, copied: Path) -> None:
    record = copied / "state" / "lower" / "lower" / "training.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "finished": False}))
    refusal = {
        "event": "refused", "training": "upper/upper", "round": 1, "site": "bo", "reason": "late",
        "time": 0,
    }  # fmt: skip
    with (copied / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(refusal) + "\n")
    assert taken(finished, copied.parent) == {"mim/mim", "mim/finetune_mim"}


def test_other_pixels_are_another_training(
    finished: Finished, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = share._data_digest
    monkeypatch.setattr(
        share,
        "_data_digest",
        lambda data, masks, stage: (
            real(data, masks, stage) + data.settings.name * 2
            if data.settings.role == "target"
            else real(data, masks, stage)
        ),
    )
    assert taken(finished, copied.parent) == {"lower/lower"}


def test_masks_of_a_target_are_asked_for_upper_alone(
    finished: Finished, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clients.data.site import SiteData

    asked = []
    real = SiteData.masks

    def masks(self: SiteData, indices: object, *, stage: str) -> object:
        asked.append((self.settings.role, stage))
        return real(self, indices, stage=stage)  # type: ignore[arg-type]

    monkeypatch.setattr(SiteData, "masks", masks)
    monkeypatch.setattr(share, "_KNOWN", {})
    taken(finished, copied.parent)
    assert {stage for role, stage in asked if role == "target"} == {"upper"}


def test_a_training_begun_under_another_identity_has_none(
    finished: Finished, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(finished.study)
    sites = {site.name: site for site in read_sites(finished.folder / "sites" / "sites.json")}
    before = identity_file(copied, "mim/mim").read_bytes()
    record = copied / "state" / "lower" / "lower" / "training.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "finished": False}))
    monkeypatch.setattr(share, "code_digest", lambda: "other")
    identities = write_identities(study, make_plan(study), copied, sites)
    assert "lower/lower" not in identities
    assert not identity_file(copied, "lower/lower").exists()
    assert identity_file(copied, "mim/mim").read_bytes() == before
