import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from common.config.study import Study
from common.plan import Plan, make_plan
from server.results_remarks import how, prevalence
from server.results_selection import (
    Classified,
    build_selection,
    leading_selection,
    pooled_interval,
)
from tests.invented import breast, chosen, classified, invented_run, redrawn


def small(*arms: str, **changes: object) -> tuple[Study, Plan]:
    study = breast(arms=list(arms), **{"select.budgets": [0.2]}, **changes)
    return study, make_plan(study)


def by_hand(plan: Plan, said: dict[str, tuple[list[int], list[float]]]) -> dict[str, Classified]:
    """Every classifier says the same: of each site the classes and the scores, in 256 cells."""
    found = {}
    for site, (true, scores) in said.items():
        confusion = np.zeros((2, 2), np.int64)
        histogram = np.zeros((2, 256), np.int64)
        for t, score in zip(true, scores, strict=True):
            confusion[t, int(score > 0.5)] += 1
            histogram[t, int(score * 256)] += 1
        metrics: dict[str, float | int] = {}
        for key in plan.cells:
            for metric in ("accuracy", "balanced_accuracy", "auroc"):
                stem = f"{key}.{metric}"
                metrics |= {f"{stem}.mean": 0.5, f"{stem}.variance": 0.01,
                            f"{stem}.n_images": len(true), f"{stem}.n_patients": 4}  # fmt: skip
        n = len(plan.cells)
        found[site] = Classified(metrics, np.stack([histogram] * n), np.stack([confusion] * n))
    return found


def test_pooled_numbers_are_those_of_all_images_together() -> None:
    study, plan = small("dual", "random")
    rng = np.random.default_rng(0)
    said = {
        site: (
            list(rng.integers(0, 2, n)),
            # One score a cell, so that the histogram loses nothing.
            list((rng.permutation(256)[:n] + 0.5) / 256),
        )
        for site, n in (("logiq_5", 20), ("logiq_7", 60))
    }
    results, _ = build_selection(
        plan, study.labels, classified=by_hand(plan, said), chosen=chosen(study, plan)
    )
    true = np.concatenate([t for t, _ in said.values()])
    scores = np.concatenate([s for _, s in said.values()])
    pooled = results.cells[0].pooled
    assert pooled["accuracy"].mean == pytest.approx(((scores > 0.5) == true).mean())
    assert pooled["balanced_accuracy"].mean == pytest.approx(
        balanced_accuracy_score(true, scores > 0.5)
    )
    assert pooled["auroc"].mean == pytest.approx(roc_auc_score(true, scores))
    half = 1.959964 * math.sqrt((20 / 80) ** 2 * 0.01 + (60 / 80) ** 2 * 0.01)
    assert pooled["accuracy"].ci_high == pytest.approx(pooled["accuracy"].mean + half)
    assert results.test["logiq_5"] == {
        "benign": 20 - sum(said["logiq_5"][0]), "malignant": sum(said["logiq_5"][0]),
    }  # fmt: skip


def test_the_interval_of_an_accuracy_is_that_of_its_own_resampling() -> None:
    """Against a slow bootstrap that draws images site by site and pools them."""
    rng = np.random.default_rng(1)
    sites = [rng.random(40) < 0.7, rng.random(120) < 0.85]
    drawn = [
        np.concatenate([rng.choice(right, right.size) for right in sites]).mean()
        for _ in range(4000)
    ]
    alone = [
        (right.size, float(np.var([rng.choice(right, right.size).mean() for _ in range(4000)])))
        for right in sites
    ]
    mean = float(np.concatenate(sites).mean())
    found = pooled_interval(mean, alone)
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_high - found.ci_low == pytest.approx(2 * 1.96 * np.std(drawn), rel=0.06)
    assert pooled_interval(0.5, [(3, 0.1), (3, None)]).ci_low is None
    assert pooled_interval(0.9, [(3, 1.0)]).ci_high == 1.0


def test_comparisons_combine_over_sites_and_holm_within_budget_and_architecture() -> None:
    study, plan = small("dual", "random", "entropy")
    answers = classified(study, plan)
    z = {"random": 2.0, "entropy": 1.0}
    for answer in answers.values():
        for key in list(answer.metrics):
            arm = key.split("/")[0]
            if key.endswith("versus.z"):
                answer.metrics[key] = z[arm]  # type: ignore[index]
            elif key.endswith("versus.n"):
                answer.metrics[key] = 9  # type: ignore[index]
    results, _ = build_selection(plan, study.labels, classified=answers, chosen={})
    by = {(c.arm, c.architecture): c for c in results.cells}
    first = study.classify.architectures[0]
    assert by["random", first].p == pytest.approx(math.erfc(2.0))  # z = 2 sqrt(2)
    assert by["random", first].p_holm == pytest.approx(2 * math.erfc(2.0))
    assert by["entropy", first].p_holm == pytest.approx(math.erfc(1.0))
    assert by["dual", first].p is None
    differences = [s.difference for s in by["random", first].versus.values()]
    assert by["random", first].difference == pytest.approx(np.mean(differences))


def test_how_arms_choose_and_which_leads() -> None:
    _, plan = small("full", "coreset", "dual", "dual_per_site", "random")
    assert leading_selection(plan) == "coreset"
    assert {arm: how(s) for arm, s in plan.selections.items()} == {
        "full": "every image",
        "coreset": "per site, by quota",
        "dual": "one threshold over all sites",
        "dual_per_site": "per site, each its own share",
        "random": "one threshold over all sites",
    }
    assert leading_selection(make_plan(breast(arms=["full", "source_only"]))) == ""


def test_what_a_reader_must_know_is_noted() -> None:
    study, plan = small("dual", "dual_cohort", "coreset", "lfosa", "random")
    redrawings = redrawn(study)
    lost = redrawings["logiq_7"]
    redrawings["logiq_7"] = lost.model_copy(
        update={"metrics": {**lost.metrics, "contrast_ratio": 0.31}}
    )
    choices = chosen(study, plan)
    counts = {
        (arm, budget): dict(choices[arm].selected["20"])
        for arm, selection in plan.selections.items()
        for budget in selection.budgets
    }
    counts["random", 0.2] = {**counts["random", 0.2], "logiq_5": 1}
    _, notes = build_selection(
        plan, study.labels, classified=classified(study, plan), chosen=choices,
        reconstruction=redrawings, annotated=counts,
    )  # fmt: skip
    said = "\n".join(notes)
    assert "who always says 'benign' reaches that accuracy" in said
    assert "coreset ran per site, by quota" in said
    assert "lfosa was made to tell known from unknown classes" in said
    assert "dual_cohort: with a minimum cohort (images: logiq_5 5, logiq_7 5) small" in said
    shared = choices["dual_cohort"].overlap["20"]
    assert f"It shares {shared:.1%} at 20 % of the exact choice, dual's." in said
    assert "cannot be known" not in said
    assert "logiq_7: its reconstructions keep 31 % of the lesions' contrast" in said
    assert "random, 20 %: logiq_5 had fewer than 2 annotated images" in said
    assert "selected images were not annotated" in said
    assert not any("logiq_5: its reconstructions" in note for note in notes)


def test_a_choice_is_held_against_an_exact_one_or_against_none() -> None:
    study, plan = small("dual", "dual_cohort", "coreset", "random")
    exact = chosen(study, plan)
    sites = dict.fromkeys(study.targets, 5)
    choices = {arm: replace(choice, cohort=sites) for arm, choice in exact.items()}
    choices["dual"] = replace(
        choices["dual"],
        regrouped={"logiq_5": 40, "logiq_7": 0},
        due={name: sum(of.values()) - 3 for name, of in choices["dual"].selected.items()},
    )
    answers = classified(study, plan)
    _, notes = build_selection(plan, study.labels, classified=answers, chosen=choices)
    said = "\n".join(notes)
    # 100 % of a choice that is no exact one says nothing.
    assert "of the exact choice" not in said
    assert "dual, dual_cohort and random: with a minimum cohort" in said
    assert "How far it is from that cannot be known here" in said
    due = choices["dual"].due["20"]
    assert f"dual: {due + 3} images were chosen at 20 % where {due} were due" in said
    assert "40 of " in said
    assert "images were counted in another cell of uncertainty or distance" in said
    # Somebody else leads: a share of its choice is no share of the exact one.
    study, plan = small("random", "dual", "dual_cohort")
    answers = classified(study, plan)
    _, notes = build_selection(plan, study.labels, classified=answers, chosen=chosen(study, plan))
    said = "\n".join(notes)
    assert "dual_cohort: with a minimum cohort" in said
    assert "of the exact choice" not in said


def test_a_collapsed_embedding_is_told_once_for_the_arms_that_share_it() -> None:
    study, plan = small("dual", "dual_cohort", "random")
    flat = {"logiq_5": {"mean_angle": 0.001, "effective_rank": 1.02}}
    choices = {
        arm: replace(choice, embedding={**choice.embedding, **flat} if choice.embedding else {})
        for arm, choice in chosen(study, plan).items()
    }
    answers = classified(study, plan)
    _, notes = build_selection(plan, study.labels, classified=answers, chosen=choices)
    (told,) = [note for note in notes if "nearly all alike" in note]
    assert told.startswith("dual and dual_cohort: the embeddings at logiq_5 (mean angle 0.001")
    assert "logiq_7" not in told
    _, notes = build_selection(plan, study.labels, classified=answers, chosen=chosen(study, plan))
    assert not [note for note in notes if "nearly all alike" in note]


def test_the_commonest_label() -> None:
    label, share = prevalence({"a": {"benign": 3, "malignant": 5}, "b": {"benign": 7}})
    assert label == "benign"
    assert share == pytest.approx(10 / 15)
    assert prevalence({})[0] == ""


def test_a_site_of_one_class_has_no_auroc_but_the_union_has() -> None:
    study, plan = small("dual", "random")
    said = {"logiq_5": ([0, 0], [0.1, 0.2]), "logiq_7": ([1, 1], [0.9, 0.7])}
    answers = by_hand(plan, said)
    for answer in answers.values():
        for key in [k for k in answer.metrics if ".auroc." in k]:
            del answer.metrics[key]  # type: ignore[attr-defined]
    results, _ = build_selection(plan, study.labels, classified=answers, chosen={})
    cell = results.cells[0]
    assert "auroc" not in cell.sites["logiq_5"]
    assert cell.pooled["auroc"].mean == 1.0
    assert cell.pooled["auroc"].ci_low is None


def test_results_are_of_the_format_and_hold_no_image(tmp_path: Path) -> None:
    run = invented_run(tmp_path / "run", breast(arms=["dual", "random"]))
    text = (run / "results.json").read_text()
    assert '"main": ""' in text
    assert "worklist" not in text
