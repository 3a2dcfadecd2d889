"""`sonofed simulate --policy`, and counts in steps: what a hospital's own policy does to a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from clients.exchanges import manifest_of
from clients.gate import manifest as manifests
from clients.gate.policy_file import load_file
from common.config.load import load_study
from common.ledger_check import read, verify
from scripts.simulate import Engine, run_study_here
from tests.scripts.conftest import Command, write_study

STEPS = "[federation]\ncount_bucket = 5\n"


def events(folder: Path, site: str, kind: str) -> list[dict[str, Any]]:
    lines = read(folder / "sites" / site / "ledger.jsonl")
    return [dict(line.event) for line in lines if line.event["kind"] == kind]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "mini.toml", '["lower"]', STEPS)


@pytest.fixture
def policy(study: Path, tmp_path: Path) -> Path:
    """The template, made bo's own: it takes part in this study, and wants counts in steps."""
    manifest = manifest_of(load_study(study))
    sha256 = manifests.digest(manifest)
    (tmp_path / "mini.manifest.json").write_text(manifests.dump(manifest))
    template = Path("configs/policy.toml").read_text()
    entry = f'[studies.mini]\nmanifest = "mini.manifest.json"\nsha256 = "{sha256}"\n'
    text = (
        template.replace('site = "hospital-1"', 'site = "bo"')
        .replace("\n[studies]\n", "\n" + entry, 1)
        .replace("minimum = 5", "minimum = 1")
        .replace(
            '"federation.*" = {}', '"federation.*" = {}\n"federation.count_bucket" = {low = 5}'
        )
    )
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


def test_a_site_is_judged_by_its_own_policy(
    study: Path, policy: Path, sites: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run_study_here(
        load_study(study), Engine.inprocess, sites, folder, resume=False, policy=[f"bo={policy}"]
    )
    (named,) = events(folder, "bo", "policy")
    assert named["digest"] == load_file(policy).digest
    assert events(folder, "ada", "policy")[0]["digest"] != named["digest"]
    assert not events(folder, "bo", "refused")
    verdict = verify(folder / "sites/bo/ledger.jsonl", None, folder / "receipts.jsonl")
    assert verdict.problem is None, verdict.problem


def test_counts_cross_in_steps_and_the_run_says_so(
    study: Path, sites: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run_study_here(load_study(study), Engine.inprocess, sites, folder, resume=False)
    enrolled = json.loads((folder / "state/enrol/bo.json").read_text())["counts"]
    assert (enrolled["images"], enrolled["train_images"], enrolled["test_patients"]) == (10, 10, 5)
    counts = [
        value
        for site in ("ada", "bo")
        for event in events(folder, site, "reply")
        for name, value in event["metrics"].items()
        if name.endswith(("images", "patients", "examples"))
    ]
    assert counts
    assert all(value % 5 == 0 for value in counts)
    notes = json.loads((folder / "results.json").read_text())["notes"]
    assert any("steps of 5" in note and "not comparable bit for bit" in note for note in notes)


def test_what_a_policy_would_refuse_is_told_before_anything_runs(
    policy: Path, sites: Path, tmp_path: Path, sonofed: Command
) -> None:
    exact = write_study(tmp_path / "exact.toml", '["lower"]')
    said = sonofed("simulate", exact, "--data-root", sites, "--out", tmp_path / "r",
                   "--policy", f"bo={policy}")  # fmt: skip
    assert said.code == 2
    assert "bo: " in said.err
    assert "federation.count_bucket" in said.err
    assert "1 is below 5" in said.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("bo", "is not SITE=FILE"),
        ("boo=x.toml", "no site 'boo'; did you mean 'bo'"),
        ("bo=none.toml", "no such policy"),
        ("ada={policy}", "is the policy of bo, not of ada"),
    ],
)
def test_wrong_pairs(
    given: str, words: str, study: Path, policy: Path, sites: Path, tmp_path: Path,
    sonofed: Command,
) -> None:  # fmt: skip
    said = sonofed("simulate", study, "--data-root", sites, "--out", tmp_path / "r",
                   "--policy", given.format(policy=policy))  # fmt: skip
    assert said.code == 2
    assert words in said.err.replace("\n", " ")


def test_a_run_that_goes_on_under_another_policy_says_so(
    study: Path, policy: Path, sites: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    loaded = load_study(study)
    run_study_here(loaded, Engine.inprocess, sites, folder, resume=False)
    (folder / "results.json").unlink()
    (folder / "state" / "evaluate.json").unlink()
    run_study_here(loaded, Engine.inprocess, sites, folder, resume=True, policy=[f"bo={policy}"])
    first, second = (event["digest"] for event in events(folder, "bo", "policy"))
    assert first != second == load_file(policy).digest
    assert len(events(folder, "ada", "policy")) == 1
