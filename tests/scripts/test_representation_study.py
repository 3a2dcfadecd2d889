"""A study without masks or a source, from the TOML to the report."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.config.load import parse_study
from common.errors import InputError
from common.formats import read_results
from common.models.branches import encoder_of, fresh, untrained_encoder
from common.plan import UNTRAINED, make_plan
from common.wire.vocabulary import evaluation_metrics, member_tensors
from scripts.simulate import Engine, run_study_here

ARMS = ["contrastive", "contrastive_content", "simclr", "mim", "untrained"]
EXTRACT = {"patient": "p[0-9]+", "label": "convex|linear"}


def tables(**changes: Any) -> dict[str, Any]:
    shared = {"batch": 8, "epochs": 1, "learning_rate": 1e-3}
    return {
        "name": "sweeps",
        "arms": ARMS,
        "sites": {
            name: {
                "role": "target",
                "folder": name,
                "columns": {"patient": "video", "label": "device"},
                "extract": EXTRACT,
                "test": {"video": ["p0_*", "p1_*", "p2_*", "p3_*"]},
            }
            for name in ("north", "south")
        },
        "split": {"val": 0.0},
        "model": {"preset": "tiny", "image_size": 32},
        "mim": shared,
        "contrastive": {**shared, "min_frame_gap": 3},
        "evaluate": {"kind": "representation", "exclusion_gap": 3, "bootstrap": 100},
        "compute": {"batch": 8},
        **changes,
    }


def write_sweeps(folder: Path, probes: list[str]) -> None:
    """Per patient two sweeps of four frames; the sweep has a picture of its own, plus noise."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(len(folder.name))
    rows = []
    for patient, probe in enumerate(probes):
        for sweep in range(2):
            picture = rng.integers(0, 200, (4, 4)).repeat(9, axis=0).repeat(9, axis=1)
            for frame in range(4):
                name = f"p{patient}_v{sweep}_f{frame}"
                noisy = picture + rng.integers(0, 40, picture.shape)
                Image.fromarray(noisy.astype(np.uint8)).save(folder / "images" / f"{name}.png")
                rows.append(
                    {
                        "id": name,
                        "image": f"images/{name}.png",
                        "video": f"p{patient}_v{sweep}",
                        "frame": str(2 * frame),
                        "device": f"somewhere/{probe}",
                    }
                )
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_sweeps(root / "north", ["convex", "linear"] * 4)
    write_sweeps(root / "south", ["convex"] * 6)
    return run_study_here(
        parse_study(tables(), "test"), Engine.inprocess, root, root / "run", resume=False
    )


def test_every_arm_is_scored_at_every_site(run: Path) -> None:
    results = read_results(run / "results.json")
    assert list(results.arms) == ARMS
    retrieval, probe = ["recall_at_1", "map"], ["probe_balanced_accuracy", "probe_auroc"]
    for arm in results.arms.values():
        assert list(arm.sites["north"].metrics) == retrieval + probe
        assert list(arm.sites["south"].metrics) == retrieval
        assert all(site.reference and site.unit == "patient" for site in arm.sites.values())
        assert all(site.gap_closure is None for site in arm.sites.values())
        assert arm.targets["recall_at_1"].n_sites == 2
        assert arm.targets["probe_auroc"].n_sites == 1
    compared = {(c.other, c.metric) for c in results.comparisons}
    assert compared == {(arm, metric) for arm in ARMS[1:] for metric in retrieval}
    assert any(note.startswith("south: no linear probe") for note in results.notes)
    assert any(
        note.startswith("probe_auroc: the mean of targets is over 1 of 2") for note in results.notes
    )
    assert not any("mask" in note and "pairs" not in note for note in results.notes)


def test_features_and_scores_stay_at_the_site(run: Path) -> None:
    site = run / "sites" / "north"
    features = sorted((site / "predictions").glob("*.npy"))
    assert len(features) == len(ARMS)
    assert {np.load(path).shape for path in features} == {(32, 192)}  # 4 patients of 8 frames
    with (site / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32 * len(ARMS)
    assert {row["label"] for row in rows} == {"convex", "linear"}


def test_the_report_tells_it_in_retrieval(run: Path) -> None:
    text = (run / "report.html").read_text()
    assert "Recall at 1" in text
    results = text[text.index("<h2>Results</h2>") : text.index("<h2>Training</h2>")]
    assert not any(word in results for word in ("Dice", "HD95", "gap closure"))


def test_the_plan_pretrains_and_nothing_else() -> None:
    study = parse_study(tables(), "test")
    plan = make_plan(study)
    assert [t.key for t in plan.trainings.values()] == [
        "contrastive/contrastive",
        "contrastive_content/contrastive",
        "simclr/contrastive",
        "mim/mim",
    ]
    settings = {key: t.settings.model_dump() for key, t in plan.trainings.items()}
    assert [s.get("gap") for s in settings.values()] == ["frames", "content", "frames", None]
    assert [s.get("min_frame_gap") for s in settings.values()] == [3, 3, 0, None]
    assert plan.arms["untrained"].members == {"north": (UNTRAINED,), "south": (UNTRAINED,)}
    assert set(plan.predictors) == {*plan.trainings, UNTRAINED}


def test_the_encoder_alone_crosses_to_be_scored() -> None:
    study = parse_study(tables(), "test")
    plan = make_plan(study)
    lists = [member_tensors(study, plan, member) for member in plan.predictors]
    assert all(specs == lists[0] for specs in lists)
    assert all(spec.name.startswith("encoder.") for spec in lists[0])
    names = evaluation_metrics(study, plan)
    assert {"mim.recall_at_1.mean", "contrastive~mim.map.p"} <= set(names)
    assert not any("dice" in name or "agreement" in name for name in names)


def test_the_floor_is_where_every_arm_starts() -> None:
    study = parse_study(tables(), "test")
    plan = make_plan(study)
    floor = untrained_encoder(study)
    for training in plan.trainings.values():
        start = encoder_of(fresh(study, training).state_dict())
        assert list(floor) == list(start)
        assert all((floor[name] == start[name]).all() for name in floor)


def test_one_encoder_a_site() -> None:
    study = parse_study(tables(pretrain={"scope": "per_site"}), "test")
    members = make_plan(study).arms["mim"].members
    assert members == {"north": ("mim/mim@north",), "south": ("mim/mim@south",)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": ["mim", "lower"]}, "arms: lower is no single encoder"),
        ({"evaluate": {"kind": "segmentation"}}, "nobody can teach"),
        ({"evaluate": {"kind": "segmentation"}}, "arms: untrained needs evaluate.kind"),
        (
            {
                "pretrain": {"scope": "per_site"},
                "sites": {"a": {"role": "source"}, "b": {"role": "target"}},
            },
            "pretrain.scope: per_site gives a source no encoder",
        ),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_study(tables(**changes), "test")
    assert any(words in problem for problem in caught.value.problems)
