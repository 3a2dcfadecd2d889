"""reconstruct: what leaves a site are counts, means and histograms, and they are right."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.classifiers import features_of, load_classifier
from clients.edges import find_edges
from clients.reconstruction import reconstructions, redrawn_rows
from clients.reconstruction_figures import lesion_contrast, similarity
from clients.request import Request, Result
from clients.site import open_site
from clients.stages import reconstruct
from common.models.branches import State
from common.reconstruction import wasserstein
from common.seeds import deterministic
from tests.clients.classifying import passed
from tests.clients.redrawing import (
    ARCHITECTURE,
    CLASSIFIER,
    DIFFUSION,
    make_site,
    request_of,
    smallest,
    start,
    study_of,
)


@pytest.fixture(autouse=True)
def _smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    smallest(monkeypatch)


def ask(root: Path, name: str, step: str, weights: State) -> tuple[Request, Result]:
    request = request_of(
        make_site(root, name), study_of(), "reconstruct", step=step, weights=weights
    )
    with deterministic(0, 1):
        return request, passed(request, reconstruct.run(request), "query")


def described(root: Path) -> tuple[Result, State]:
    """The source's style, and what goes down for a comparison."""
    classifier = start(study_of(), CLASSIFIER)
    _, style = ask(root, "ada", "style", classifier)
    assert style.weights is not None
    down = {f"classifier.{name}": tensor for name, tensor in classifier.items()}
    return style, {
        **down, **{name: style.weights[name] for name in ("style.features", "style.grey")}
    }  # fmt: skip


def features(images: np.ndarray) -> np.ndarray:
    study = study_of()
    classifier = load_classifier(study, ARCHITECTURE, start(study, CLASSIFIER))
    return features_of(classifier, images, study.compute)


def test_a_source_tells_its_mean_and_its_histograms(tmp_path: Path) -> None:
    style, _ = described(tmp_path)
    assert style.weights is not None
    data = open_site(make_site(tmp_path, "ada"), study_of())
    images = data.images(data.split.train)
    own = features(images)
    np.testing.assert_allclose(style.weights["style.features"], own.mean(0), rtol=1e-5)
    assert style.weights["style.grey"].sum() == len(images) * 24 * 32
    assert style.weights["style.similarity"].sum() == style.metrics["images"] == len(images)
    near = similarity(own, own.mean(0))
    assert style.metrics["similarity_mean"] == pytest.approx(near.mean(), rel=1e-5)


def test_a_target_compares_before_and_after(tmp_path: Path) -> None:
    style, down = described(tmp_path)
    _, redrawn = ask(tmp_path, "bo", "redraw", start(study_of(), DIFFUSION))
    assert redrawn.metrics == {"images": 14}
    assert redrawn.weights is None
    request, found = ask(tmp_path, "bo", "compare", down)
    assert found.weights is not None
    data = open_site(request.site, request.study)
    rows = redrawn_rows(data, "target")
    images, after = data.images(rows), reconstructions(request.site, request.study)
    assert style.weights is not None
    source = style.weights["style.features"].numpy()
    for place, (when, squares) in enumerate((("before", images), ("after", after))):
        near = similarity(features(squares), source)
        assert found.metrics[f"similarity_mean_{when}"] == pytest.approx(near.mean(), rel=1e-5)
        assert found.metrics[f"similarity_std_{when}"] == pytest.approx(near.std(), rel=1e-4)
        grey = np.bincount(np.asarray(squares)[:, :24].ravel(), minlength=256)
        np.testing.assert_array_equal(found.weights["grey"][place], grey)
        assert found.weights["similarity"][place].sum() == 14
        assert found.metrics[f"wasserstein_{when}"] == pytest.approx(
            wasserstein(grey, style.weights["style.grey"].numpy())
        )
    error = images.astype(float) - after
    psnr = 10 * np.log10(255**2 / np.square(error).mean((1, 2)))
    assert found.metrics["psnr_mean"] == pytest.approx(psnr.mean(), rel=1e-5)
    assert found.metrics["psnr_std"] == pytest.approx(psnr.std(), rel=1e-4)

    outlined = data.has_mask[rows]
    assert 0 < outlined.sum() < 14
    masks = data.masks(rows[outlined], stage="evaluate")[:, 0] > 0
    pictures = find_edges(images[outlined]).pictures(slice(None))
    before = lesion_contrast(images[outlined], masks, pictures)
    assert found.metrics["contrast_images"] == outlined.sum()
    kept = lesion_contrast(np.asarray(after)[outlined], masks, pictures)
    expected = np.corrcoef(before, kept)[0, 1]
    assert found.metrics["contrast_correlation"] == pytest.approx(expected)

    with (request.site.folder / "reconstructions" / "reconstructions.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["id"] for line in table] == [data.rows[row].id for row in rows]
    assert float(table[3]["psnr"]) == pytest.approx(psnr[3], rel=1e-4)
    assert [line["contrast_before"] != "" for line in table] == outlined.tolist()


def test_a_better_reconstruction_looks_better(tmp_path: Path) -> None:
    """Source images in place of reconstructions: distance of grey and of features falls."""
    _, down = described(tmp_path)
    request, _ = ask(tmp_path, "bo", "redraw", start(study_of(), DIFFUSION))
    source = open_site(make_site(tmp_path, "ada"), request.study)
    (file,) = (request.site.folder / "reconstructions").glob("*.npy")
    np.save(file, source.images(np.arange(14)))
    _, found = ask(tmp_path, "bo", "compare", down)
    assert found.metrics["wasserstein_after"] < 0.2 * found.metrics["wasserstein_before"]
    assert found.metrics["similarity_mean_after"] > found.metrics["similarity_mean_before"]


def test_repeating_a_step_changes_nothing(tmp_path: Path) -> None:
    _, down = described(tmp_path)
    weights = start(study_of(), DIFFUSION)
    for step, given in (("redraw", weights), ("compare", down)):
        _, first = ask(tmp_path, "cy", step, given)
        _, again = ask(tmp_path, "cy", step, given)
        assert first.metrics == again.metrics
        for name, tensor in (first.weights or {}).items():
            assert torch.equal(tensor, (again.weights or {})[name])
