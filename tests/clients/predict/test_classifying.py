"""A bundle that classifies: probabilities of every frame, and what it refuses to say."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.predict.run import Settings, predict
from common.errors import InputError
from tests.bundles import Carried
from tests.ultrasound import write_video

OPEN = Settings(draw_flagged=True)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_says_what_the_study_s_evaluation_said(sorting: Carried, tmp_path: Path) -> None:
    site = sorting.run / "sites" / "bo"
    test_ids = json.loads((site / "split.json").read_text())["test"]
    theirs = np.load(next(site.glob("predictions/random.60.shufflenet_v2_x0_5.npy")))
    outcome = predict(sorting.bundle, sorting.data / "linear_pocket", tmp_path / "o", OPEN)
    rows = {row["source"]: row for row in rows_of(tmp_path / "o")}
    assert outcome.frames == len(rows) == 36
    for number, name in enumerate(test_ids):
        said = [float(rows[name][f"p_{label}"]) for label in ("benign", "malignant")]
        np.testing.assert_allclose(said, theirs[number], atol=2e-3)
        assert rows[name]["class"] == ("benign", "malignant")[int(np.argmax(said))]
        assert 0 <= float(rows[name]["confidence"]) <= 1
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert (record["task"], record["precision"]) == ("classification", "fp32")
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"predictions.csv", "run.json"}


@pytest.mark.parametrize(
    ("runtime", "precision", "atol"),
    [("onnx", "fp32", 1e-3), ("torch", "bf16", 0.05), ("torch", "int8", 0.05)],
)
def test_every_way_is_near(
    sorting: Carried, tmp_path: Path, runtime: str, precision: str, atol: float
) -> None:
    settings = Settings(runtime=runtime, precision=precision, draw_flagged=True)  # type: ignore[arg-type]
    said = []
    for name, chosen in (("a", OPEN), ("b", settings)):
        predict(sorting.bundle, sorting.data / "linear_pocket", tmp_path / name, chosen)
        said.append([float(row["p_benign"]) for row in rows_of(tmp_path / name)])
    np.testing.assert_allclose(said[1], said[0], atol=atol)


def test_a_clip_frame_by_frame_and_a_strange_frame(sorting: Carried, tmp_path: Path) -> None:
    paths = sorted((sorting.data / "linear_pocket" / "images").iterdir())[:4]
    write_video(tmp_path / "v.avi", np.stack([np.asarray(Image.open(path)) for path in paths]))
    predict(sorting.bundle, tmp_path / "v.avi", tmp_path / "o", OPEN)
    assert [row["frame"] for row in rows_of(tmp_path / "o")] == list("0123")
    noise = np.random.default_rng(0).integers(225, 256, (48, 48), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    outcome = predict(sorting.bundle, tmp_path / "noise.png", tmp_path / "p", Settings())
    (row,) = rows_of(tmp_path / "p")
    assert "grey" in row["flag"]
    assert (row["class"], row["p_benign"], row["confidence"]) == ("", "", "")
    assert outcome.withheld == 1
    predict(sorting.bundle, tmp_path / "noise.png", tmp_path / "q", OPEN)
    (row,) = rows_of(tmp_path / "q")
    assert row["class"] in ("benign", "malignant")


def test_it_draws_nothing(sorting: Carried, tmp_path: Path) -> None:
    settings = Settings(masks="nrrd", maps=True, overlay=True)
    with pytest.raises(InputError, match="--masks, --maps, --overlay: the bundle classifies"):
        predict(sorting.bundle, sorting.data / "linear_pocket", tmp_path / "o", settings)
