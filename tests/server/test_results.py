import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.formats import Results, Role, Unit, read_results
from server.results import build_results, write

ROLES: dict[str, Role] = {"cart": "source", "pocket": "target", "convex": "target"}
UNITS: dict[str, Unit] = dict.fromkeys(ROLES, "patient")


def flat(dice: dict[str, float], *, p: float = 0.01, z: float = 2.576, n: int = 9) -> Any:
    metrics: dict[str, float] = {}
    for arm, mean in dice.items():
        metrics |= {
            f"{arm}.dice.mean": mean,
            f"{arm}.dice.ci_low": mean - 0.05,
            f"{arm}.dice.ci_high": mean + 0.05,
            f"{arm}.dice.variance": 0.0009,
            f"{arm}.dice.n_images": 40.0,
            f"{arm}.dice.n_patients": float(n),
        }
        if arm != "ensemble":
            metrics |= {
                f"ensemble~{arm}.dice.difference": dice["ensemble"] - mean,
                f"ensemble~{arm}.dice.p": p,
                f"ensemble~{arm}.dice.z": z if dice["ensemble"] > mean else -z,
                f"ensemble~{arm}.dice.n": float(n),
            }
    return metrics


def build(evaluations: dict[str, Any], **changes: Any) -> Results:
    results = build_results(
        **{
            "study": "demo",
            "digest": "ab" * 32,
            "seed": 3,
            "synthetic": True,
            "machine": {"cpu": "two cores"},
            "main": "ensemble",
            "arms": ["ensemble", "lower", "upper"],
            "roles": ROLES,
            "units": UNITS,
            "evaluations": evaluations,
            "traffic": {"cart": {"down": 10, "up": 20}, "pocket": {"down": 1, "up": 2}},
            **changes,
        }
    )
    return Results.model_validate(results)


def test_gap_closure_and_macro_mean_by_hand() -> None:
    results = build(
        {
            "cart": flat({"ensemble": 0.9, "lower": 0.88, "upper": 0.7}),
            "pocket": flat({"ensemble": 0.7, "lower": 0.6, "upper": 0.8}),
            "convex": flat({"ensemble": 0.5, "lower": 0.4, "upper": 0.8}),
        }
    )
    ensemble = results.arms["ensemble"]
    assert ensemble.sites["pocket"].gap_closure == pytest.approx(0.5)
    assert ensemble.sites["convex"].gap_closure == pytest.approx(0.25)
    assert ensemble.sites["cart"].gap_closure is None
    assert results.arms["lower"].sites["pocket"].gap_closure is None
    targets = ensemble.targets["dice"]
    assert targets.mean == pytest.approx(0.6)
    assert targets.n_sites == 2
    assert targets.ci_high == pytest.approx(0.6 + 1.96 * math.sqrt(0.0018) / 2, abs=1e-4)
    assert results.traffic.total_bytes == 33


def test_tests_combine_over_targets_and_holm_over_arms() -> None:
    results = build(
        {
            "cart": flat({"ensemble": 0.9, "lower": 0.8, "upper": 0.7}, p=1.0, z=0.0),
            "pocket": flat({"ensemble": 0.7, "lower": 0.6, "upper": 0.8}, p=0.0455, z=2.0),
            "convex": flat({"ensemble": 0.5, "lower": 0.4, "upper": 0.4}, p=0.0455, z=2.0),
        }
    )
    lower, upper = results.comparisons
    assert (lower.arm, lower.other, lower.metric) == ("ensemble", "lower", "dice")
    assert list(lower.sites) == ["cart", "pocket", "convex"]
    assert lower.difference == pytest.approx(0.1)
    assert lower.p == pytest.approx(0.00468, abs=1e-4)  # z = 2 sqrt(2)
    assert lower.p_holm == pytest.approx(2 * 0.00468, abs=2e-4)
    assert upper.p == pytest.approx(1.0)  # better at one site, worse at the other
    assert upper.p_holm == pytest.approx(1.0)


def test_a_site_without_reference_has_no_closure_and_says_so() -> None:
    silent = {
        "ensemble.agreement.mean": 0.8,
        "ensemble.agreement.n_images": 12.0,
        "ensemble.agreement.n_patients": 4.0,
        "ensemble.area.mean": 0.1,
        "ensemble.area.n_images": 12.0,
        "ensemble.area.n_patients": 4.0,
    }
    results = build(
        {"pocket": silent, "convex": flat({"ensemble": 0.5, "lower": 0.4, "upper": 0.8})}
    )
    site = results.arms["ensemble"].sites["pocket"]
    assert (site.reference, site.gap_closure, site.metrics["area"].ci_low) == (False, None, None)
    assert results.arms["ensemble"].targets["dice"].n_sites == 1
    assert list(results.arms["lower"].sites) == ["convex"]
    assert any(note.startswith("pocket: no reference") for note in results.notes)


def test_what_the_numbers_call_for_is_noted() -> None:
    results = build(
        {
            "cart": flat({"ensemble": 0.9, "lower": 0.8, "upper": 0.9}),
            "pocket": flat({"ensemble": 0.7, "lower": 0.8, "upper": 0.6}, n=4),
            "convex": flat({"ensemble": 0.5, "lower": 0.4, "upper": 0.8}, n=1),
        },
        units={**UNITS, "cart": "image"},
        notes=["0 of 512 pairs masked"],
    )
    notes = "\n".join(results.notes)
    assert results.notes[0] == "0 of 512 pairs masked"
    assert "pocket: upper (0.600) is not above lower (0.800)" in notes
    assert "smallest p value that they can give is 0.125" in notes
    assert "convex: one patient in the test set" in notes
    assert "cart: patients are not known" in notes
    assert results.arms["ensemble"].sites["pocket"].gap_closure is None


def test_source_only_study_combines_nothing() -> None:
    results = build({"cart": flat({"ensemble": 0.9, "lower": 0.8, "upper": 0.7})})
    assert results.comparisons[0].p is None
    assert results.arms["ensemble"].targets == {}


def test_classes_are_metrics_of_their_own() -> None:
    metrics = flat({"ensemble": 0.7, "lower": 0.6, "upper": 0.8})
    metrics |= {name.replace("dice", "dice@carpal"): value for name, value in metrics.items()}
    results = build({"pocket": metrics})
    assert list(results.arms["ensemble"].sites["pocket"].metrics) == ["dice", "dice@carpal"]
    assert [c.metric for c in results.comparisons] == ["dice", "dice", "dice@carpal", "dice@carpal"]


def test_written_whole_and_read_again(tmp_path: Path) -> None:
    results = build({"pocket": flat({"ensemble": 0.7, "lower": 0.6, "upper": 0.8})})
    path = tmp_path / "results.json"
    write(results.model_dump(mode="json"), path)
    assert read_results(path) == results
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    with pytest.raises(ValidationError):
        write({**json.loads(path.read_text()), "extra": 1}, path)
    assert read_results(path) == results
