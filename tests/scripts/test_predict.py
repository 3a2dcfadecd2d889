"""`sonofed predict`: the command around it."""

from pathlib import Path

from PIL import Image

from tests.bundles import Carried
from tests.scripts.conftest import Command


def test_from_pictures_to_masks(carried: Carried, sonofed: Command, tmp_path: Path) -> None:
    images = carried.data / "linear_hd" / "images"
    said = sonofed(
        "predict", carried.bundle, images, "--out", tmp_path / "o", "--maps", "--overlay"
    )
    assert said.code == 0, said.err
    assert f"{tmp_path / 'o'}: 24 frames in" in said.out
    assert "a second; bundle" in said.out
    assert (tmp_path / "o" / "predictions.csv").exists()
    assert len(list((tmp_path / "o").glob("*_overlay.png"))) == 24


def test_a_file_that_cannot_be_read_is_told_and_exits_with_1(
    carried: Carried, sonofed: Command, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    first = sorted((carried.data / "linear_hd" / "images").iterdir())[0]
    Image.open(first).save(images / "good.png")
    (images / "text.png").write_text("no picture")
    (images / "notes.txt").write_text("mine")
    said = sonofed("predict", carried.bundle, images, "--out", tmp_path / "o", "--runtime", "onnx")
    assert said.code == 1
    assert "refused: " in said.out
    assert "1 files are neither picture nor clip" in said.out
    said = sonofed("predict", carried.bundle, tmp_path / "none", "--out", tmp_path / "p")
    assert said.code == 2
    assert "there is no such file or folder" in said.err
