"""The bench at its smallest: both ways draw the same pictures but for steps and precision."""

import json

import numpy as np
import pytest

from scripts.bench import reconstruct
from scripts.bench.reconstruct import phantom
from tests.clients.redrawing import smallest


@pytest.fixture(autouse=True)
def _smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    smallest(monkeypatch)


@pytest.mark.parametrize("init", ["noise", "sdedit"])
def test_equal_settings_draw_equal_pictures(
    init: reconstruct.Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruct, "REFERENCE_STEPS", 2)
    monkeypatch.setattr(reconstruct, "SOURCE_IMAGES", 8)
    (line,) = reconstruct.run(
        side=32, images=6, batch=4, sampler="ddim", steps=2, precision="float32", trained=2,
        repeats=1, init=init, fresh=False,
    )  # fmt: skip
    json.dumps(line)
    assert str(line["name"]).endswith(f"from {init}")
    assert line["contrast_correlation"] == pytest.approx(
        line["reference_contrast_correlation"], abs=1e-3
    )
    assert line["wasserstein"] == pytest.approx(line["reference_wasserstein"], abs=0.05)
    assert line["images_a_second"] == 1 / float(line["ours"])


def test_the_probes_differ_and_the_patients_too() -> None:
    images, masks = phantom("linear_hd", 2, 32, 0)
    other, _ = phantom("linear_pocket", 2, 32, 0)
    assert images.shape == masks.shape == other.shape == (2, 32, 32)
    assert masks.any((1, 2)).all()
    assert (images[0] != images[1]).any()
    assert np.abs(images.astype(int) - other).mean() > 1
