"""source_classifier: what a source learns from its labels."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients.classifiers import own_classifier
from clients.data.site import SiteData
from clients.request import Request, Result
from clients.site import label_problems, open_site
from clients.stages import source_classifier
from clients.stages.source_classifier import Validation
from common.errors import InputError
from common.seeds import deterministic
from tests.clients.classifying import (
    ARCHITECTURE,
    IDS,
    equal,
    passed,
    request_of,
    site_of,
    study_of,
)

KEY = f"{ARCHITECTURE}/source_classifier"


def asked(root: Path, labels: dict[str, str] | None = None, **changes: Any) -> Request:
    site = site_of(root, "ada", "source", labels)
    study = study_of(source_classifier=changes)
    return request_of(site, study, "source_classifier", KEY)


def answer(request: Request) -> Result:
    with deterministic(0, 1):
        return passed(request, source_classifier.run(request), "train")


def test_a_round_and_the_same_again(tmp_path: Path) -> None:
    request = asked(tmp_path)
    first, again = answer(request), answer(request)
    assert first.weights is not None
    assert again.weights is not None
    assert equal(first.weights, again.weights)
    assert first.metrics == again.metrics
    assert not equal(first.weights, request.weights)
    assert first.metrics["examples"] == 12
    assert first.metrics["patients"] == 6
    assert (first.metrics["val_images"], first.metrics["val_patients"]) == (6, 3)
    kept = own_classifier(request.site.folder, ARCHITECTURE)
    assert kept is not None
    assert all(torch.equal(kept[name], tensor) for name, tensor in first.weights.items())
    assert own_classifier(request.site.folder, "another") is None


def test_it_learns(tmp_path: Path) -> None:
    """Bright discs from dark ones: an untrained network cannot, twenty epochs can."""
    request = asked(tmp_path, epochs=20)
    found = answer(request).metrics
    assert found["val_balanced_accuracy"] == 1
    assert found["val_loss"] < 0.35
    assert found["loss"] < 0.6 * found["loss_first"]


def test_the_best_epoch_goes_back_and_checks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(tmp_path, epochs=4, learning_rate=0.02)
    said: list[Validation] = []
    true_validate = source_classifier.validate

    def validate(*arguments: Any) -> Validation:
        said.append(true_validate(*arguments))
        return said[-1]

    monkeypatch.setattr(source_classifier, "validate", validate)
    found = answer(request)
    losses = [validation.loss for validation in said]
    best = losses.index(min(losses))
    assert found.metrics["best_epoch"] == best + 1
    assert found.metrics["val_loss"] == losses[best]
    assert len(set(losses)) == 4
    judged = request_of(
        request.site, request.study, "source_classifier", KEY, weights=found.weights
    )
    checked = passed(judged, source_classifier.check(judged), "evaluate").metrics
    assert checked["val_loss"] == pytest.approx(losses[best], rel=1e-6)
    assert checked["val_balanced_accuracy"] == found.metrics["val_balanced_accuracy"]


def test_validation_by_hand(tmp_path: Path) -> None:
    request = asked(tmp_path)
    data = open_site(request.site, request.study)
    codes_N = source_classifier.codes_of(request, data)
    logits = {0: [2.0, 0.0], 1: [0.0, 1.0]}

    class Says(torch.nn.Module):
        """The first image's class for all: right for some, wrong for the rest."""

        def forward(self, images_B1HW: torch.Tensor) -> torch.Tensor:
            return torch.tensor([logits[0]] * len(images_B1HW))

    found = source_classifier.validate(Says(), data, codes_N, request.study.compute)
    count = Counter(codes_N[data.split.val].tolist())
    right, wrong = np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))
    assert found.loss == pytest.approx((count[0] * right + count[1] * wrong) / 6)
    assert found.balanced_accuracy == 0.5
    assert found.images == 6


def test_only_its_own_rows_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = asked(tmp_path)
    split = open_site(request.site, request.study).split
    seen: set[int] = set()
    true_images = SiteData.images

    def images(self: SiteData, indices: Any) -> Any:
        seen.update(int(i) for i in indices)
        return true_images(self, indices)

    monkeypatch.setattr(SiteData, "images", images)
    answer(request)
    assert seen <= {*split.train.tolist(), *split.val.tolist()}
    assert set(split.val.tolist()) <= seen


def test_augmentation_changes_what_is_learned(tmp_path: Path) -> None:
    plain, turned = (
        answer(asked(tmp_path / str(on), augmentation=on)).metrics["loss"] for on in (False, True)
    )
    assert plain != turned


def test_steps_stand_in_for_epochs(tmp_path: Path) -> None:
    """Four steps of a batch of 4 from 12 images: an epoch of three steps and one of one."""
    request = asked(tmp_path, steps=4)
    answer(request)
    lines = (request.site.folder / "epochs.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_a_source_without_labels_is_one_sentence(tmp_path: Path) -> None:
    request = asked(tmp_path, dict.fromkeys(IDS, ""))
    data = open_site(request.site, request.study)
    assert label_problems(data, request.site, request.study) == [
        "site ada: no image has a label in its manifest; say with [sites.ada] columns which "
        "column has it"
    ]
    some = asked(tmp_path / "some", {IDS[0]: ""})
    data = open_site(some.site, some.study)
    (told,) = label_problems(data, some.site, some.study)
    assert told.endswith("has no label; leave it out with [sites.ada] where")


def test_wrong_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"site ada: image 'i0\d' has the label 'normal'"):
        answer(asked(tmp_path / "a", {f"i0{n}": "normal" for n in range(8)}))
    same = {f"i{n:02}": "benign" for n in range(24)}
    with pytest.raises(InputError, match="all training images are 'benign'"):
        answer(asked(tmp_path / "b", same))
