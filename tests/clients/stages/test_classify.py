"""classify: trained on what experts have said, judged on the test images."""

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor

from clients.annotations import close_labels
from clients.classifiers import features_of, load_classifier, probabilities_of
from clients.data.site import SiteData
from clients.request import Request, Result
from clients.site import open_site, training_rows
from clients.stages import classify
from common.classification import auroc_of_histogram
from common.errors import InputError
from common.models.branches import fresh, shared_state
from common.plan import make_plan
from common.seeds import deterministic
from tests.clients.classifying import (
    ARCHITECTURE,
    IDS,
    OTHER,
    annotate,
    equal,
    passed,
    request_of,
    site_of,
    study_of,
)

CELL = f"dual/50/{ARCHITECTURE}"
KEY = f"{CELL}/classify"
SAID = {IDS[n]: ("benign", "malignant")[n // 2 % 2] for n in (3, 0, 10, 6, 17, 1)}


def asked(
    root: Path, said: Mapping[str, str] = SAID, weights: Mapping[str, Tensor] | None = None,
    **changes: Any,
) -> Request:  # fmt: skip
    site = site_of(root)
    annotate(site, "dual", 0.5, said)
    return request_of(site, study_of(classify=changes), "classify", KEY, weights)


def answer(request: Request) -> Result:
    with deterministic(0, 1):
        return passed(request, classify.run(request), "train")


def test_a_round_and_the_same_again(tmp_path: Path) -> None:
    request = asked(tmp_path)
    first, again = answer(request), answer(request)
    assert equal(first.weights, again.weights)
    assert first.metrics == again.metrics
    assert not equal(first.weights, request.weights)
    assert first.metrics["examples"] == 6
    assert first.metrics["patients"] == 5


def test_only_the_annotated_train_and_only_with_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(tmp_path)
    seen: set[str] = set()
    true_images = SiteData.images

    def images(self: SiteData, indices: Any) -> Any:
        seen.update(self.rows[i].id for i in indices)
        return true_images(self, indices)

    def labels(self: SiteData, indices: Any, *, stage: str) -> Any:
        raise AssertionError("the manifest's own labels are none of this stage's business")

    monkeypatch.setattr(SiteData, "images", images)
    monkeypatch.setattr(SiteData, "labels", labels)
    answer(request)
    assert seen == set(SAID)


def test_what_experts_say_counts(tmp_path: Path) -> None:
    right = answer(asked(tmp_path / "a"))
    other = answer(asked(tmp_path / "b", {**SAID, IDS[3]: "benign"}))
    assert not equal(right.weights, other.weights)


def test_the_order_of_the_worklist_does_not(tmp_path: Path) -> None:
    backwards = dict(reversed(SAID.items()))
    first, second = answer(asked(tmp_path / "a")), answer(asked(tmp_path / "b", backwards))
    assert equal(first.weights, second.weights)


def test_what_is_said_after_the_study_went_on_changes_nothing(tmp_path: Path) -> None:
    request = asked(tmp_path)
    close_labels(request.site.folder)
    first = answer(request)
    annotate(request.site, "dual", 0.5, {**SAID, IDS[20]: "benign"})
    assert equal(first.weights, answer(request).weights)


def test_fewer_images_than_a_batch_are_one_batch(tmp_path: Path) -> None:
    two = {IDS[0]: "benign", IDS[2]: "malignant"}
    request = asked(tmp_path, two, batch=8, steps=5)
    found = answer(request)
    assert found.metrics["examples"] == 2
    lines = (request.site.folder / "epochs.jsonl").read_text().splitlines()
    assert len(lines) == 5


def test_it_learns_from_few(tmp_path: Path) -> None:
    request = asked(tmp_path, steps=80, learning_rate=3e-3)
    found = answer(request).metrics
    assert found["loss"] < 0.3 * found["loss_first"]


def test_wrong_annotations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image 'i00' has the label 'cyst', which is none of"):
        answer(asked(tmp_path / "a", {**SAID, IDS[0]: "cyst"}))
    with pytest.raises(InputError, match="'scan 7' is annotated but no image of the site"):
        answer(asked(tmp_path / "b", {**SAID, "scan 7": "benign"}))


def judged(root: Path) -> tuple[Request, dict[str, np.ndarray[Any, Any]]]:
    """A site that has predicted with every classifier, each with weights of its own."""
    site, study = site_of(root), study_of()
    plan = make_plan(study)
    data = open_site(site, study)
    said = {}
    for seed, (key, cell) in enumerate(plan.cells.items()):
        training = dataclasses.replace(plan.trainings[cell.training], member=seed)
        weights = shared_state(fresh(study, training))
        request = request_of(site, study, "classify", key, weights)
        passed(request, classify.evaluate(request), "evaluate")
        said[key] = probabilities_of(
            load_classifier(study, cell.architecture, weights),
            data.images(data.split.test),
            study.compute,
        )
    return request_of(site, study, "classify"), said


def test_figures_counts_and_tables(tmp_path: Path) -> None:
    request, said = judged(tmp_path)
    assert list(said) == [
        f"{arm}/{budget}/{architecture}"
        for arm, budget in (("dual", 50), ("random", 50), ("full", 100), ("source_only", 0))
        for architecture in (ARCHITECTURE, OTHER)
    ]
    found = passed(request, classify.evaluate(request), "evaluate")
    data = open_site(request.site, request.study)
    rows = data.split.test
    true = np.array([int(x == "malignant") for x in data.labels(rows, stage="evaluate")])
    assert found.weights is not None
    for place, (key, p) in enumerate(said.items()):
        area = roc_auc_score(true, p[:, 1])
        balanced = balanced_accuracy_score(true, p.argmax(1))
        assert found.metrics[f"{key}.accuracy.mean"] == np.mean(p.argmax(1) == true)
        assert found.metrics[f"{key}.balanced_accuracy.mean"] == pytest.approx(balanced)
        assert found.metrics[f"{key}.auroc.mean"] == pytest.approx(area)
        assert found.metrics[f"{key}.auroc.n_images"] == 6
        assert found.metrics[f"{key}.auroc.n_patients"] == 3
        scores = found.weights["scores"][place].numpy()
        assert scores.sum(axis=1).tolist() == [(true == 0).sum(), (true == 1).sum()]
        assert 0 <= auroc_of_histogram(scores) <= 1
        assert np.trace(found.weights["confusion"][place].numpy()) == (p.argmax(1) == true).sum()
        assert (f"{key}.versus.p" in found.metrics) == key.startswith("random/")
    difference = np.mean(
        (said[CELL].argmax(1) == true).astype(float)
        - (said[f"random/50/{ARCHITECTURE}"].argmax(1) == true)
    )
    assert found.metrics[f"random/50/{ARCHITECTURE}.versus.difference"] == difference
    with (request.site.folder / "classification.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8 * 6
    assert {row["image"] for row in table} == {data.rows[row].id for row in rows}
    first = table[0]
    assert (first["arm"], first["architecture"], first["budget"]) == ("dual", ARCHITECTURE, "0.5")
    assert float(first["p_malignant"]) == pytest.approx(float(said[CELL][0, 1]), abs=1e-6)
    assert first["said"] == ("benign", "malignant")[int(said[CELL][0].argmax())]


def test_scoring_again_is_the_same(tmp_path: Path) -> None:
    request, _ = judged(tmp_path)
    first, again = classify.evaluate(request), classify.evaluate(request)
    assert first.metrics == again.metrics
    assert equal(first.weights, again.weights)


def test_no_test_image_is_in_the_pool(tmp_path: Path) -> None:
    site, study = site_of(tmp_path), study_of()
    data = open_site(site, study)
    assert not set(data.split.test.tolist()) & set(training_rows(data, "select").tolist())


def test_no_per_image_number_crosses(tmp_path: Path) -> None:
    """All that leaves is a figure of the set, or a whole count."""
    request, _ = judged(tmp_path)
    found = classify.evaluate(request)
    assert found.weights is not None
    assert all(tensor.dtype == torch.int64 for tensor in found.weights.values())
    assert not [name for name in found.metrics if any(id_ in name for id_ in IDS)]


@pytest.mark.parametrize("augmentation", [False, True])
def test_a_linear_probe_moves_the_last_layer_alone(tmp_path: Path, augmentation: bool) -> None:
    request = asked(
        tmp_path, trained="last_layer", augmentation=augmentation, steps=80, learning_rate=3e-2
    )
    found = answer(request)
    assert equal(found.weights, answer(request).weights)
    assert found.metrics["loss"] < found.metrics["loss_first"]
    before = request.weights
    assert before is not None
    assert found.weights is not None
    head = load_classifier(request.study, ARCHITECTURE, before).head_names
    # What stands still stays here: the server has it already.
    assert list(found.weights) == [name for name in before if name in head]
    assert not [n for n, t in found.weights.items() if torch.equal(t, before[n])]


def test_a_linear_probe_is_logistic_regression_on_the_features(tmp_path: Path) -> None:
    request = asked(
        tmp_path, trained="last_layer", augmentation=False, steps=1, batch=len(SAID),
        optimizer="sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.1,
    )  # fmt: skip
    found, before = answer(request).weights, request.weights
    assert found is not None
    assert before is not None
    classifier = load_classifier(request.study, ARCHITECTURE, before)
    data = open_site(request.site, request.study)
    place = {row.id: n for n, row in enumerate(data.rows)}
    images_NHW = data.images(np.array([place[name] for name in SAID]))
    true_N = np.array([request.study.labels.index(said) for said in SAID.values()])
    features_ND = features_of(classifier, images_NHW, request.study.compute)
    p_NC = probabilities_of(classifier, images_NHW, request.study.compute)
    gradient_CD = (p_NC - np.eye(2)[true_N]).T @ features_ND / len(SAID)
    weight = next(n for n in classifier.head_names if n.endswith("weight"))
    expected = before[weight].numpy() - 0.1 * gradient_CD
    np.testing.assert_allclose(found[weight].numpy(), expected, atol=1e-6)
