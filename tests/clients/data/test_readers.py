import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.data.readers import (
    UnreadableError,
    coloured_share,
    load_reader,
    picture_size,
    read_image,
    read_mask,
    read_pillow,
    reader_identity,
)
from common.errors import InputError

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * np.uint8(5)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_eight_bits(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RAMP).save(path)
    grey = read_pillow(path)
    assert grey.dtype == np.uint8
    assert (grey == RAMP).all()
    assert picture_size(read_pillow, path, None) == (6, 8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    values = RAMP.astype(np.uint16) * np.uint16(257)
    Image.fromarray(values).save(path)
    grey = read_pillow(path)
    assert grey.dtype == np.uint16
    assert (grey == values).all()


def test_jpeg_and_floating_tiff(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.jpg", quality=98)
    assert np.abs(read_pillow(tmp_path / "a.jpg").astype(int) - RAMP).max() < 8
    Image.fromarray(RAMP.astype(np.float32) / 255).save(tmp_path / "f.tif")
    assert read_image(read_pillow, tmp_path / "f.tif", None).dtype == np.float32


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_stored_otherwise(tmp_path: Path, mode: str) -> None:
    Image.fromarray(RAMP).convert("RGBA" if mode == "LA" else mode).convert(mode).save(
        tmp_path / "a.png"
    )
    assert (read_pillow(tmp_path / "a.png") == RAMP).all()
    assert coloured_share(tmp_path / "a.png") == 0


def test_colour_is_noticed(tmp_path: Path) -> None:
    rgb = np.repeat(RAMP[..., None], 3, axis=2)
    rgb[:3, :, 0] = 255
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert coloured_share(tmp_path / "a.png") == pytest.approx(0.5)


def test_pages_are_frames(tmp_path: Path) -> None:
    path = tmp_path / "sweep.tif"
    pages = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 20, 30)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert read_pillow(path, 2).max() == 30
    with pytest.raises(UnreadableError, match="several pages, and its row names no frame"):
        read_pillow(path)
    with pytest.raises(UnreadableError, match="has no page 3"):
        read_pillow(path, 3)


def test_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    Image.fromarray(RAMP.repeat(20, 0).repeat(20, 1)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    for name in ("text.png", "cut.png"):
        with pytest.raises(UnreadableError, match="cannot be read as an image") as caught:
            read_pillow(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


def test_masks(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [3, 0, 1]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "l.png")
    assert (read_mask(read_pillow, tmp_path / "l.png", None, classes=3) == labels).all()
    with pytest.raises(UnreadableError, match="holds the value 3; classes go from 1 to 2"):
        read_mask(read_pillow, tmp_path / "l.png", None, classes=2)
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    assert (read_mask(read_pillow, tmp_path / "p.png", None, classes=3) == labels).all()


def test_own_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_reader.py").write_text(
        "import numpy\n"
        "def read(path, frame):\n    return numpy.load(path)[frame or 0]\n"
        "def wrong(path, frame):\n    return 7\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    np.save(tmp_path / "a.npy", RAMP[None])
    reader = load_reader("own_reader:read")
    assert (read_image(reader, tmp_path / "a.npy", None) == RAMP).all()
    with pytest.raises(UnreadableError, match="IndexError"):
        read_image(reader, tmp_path / "a.npy", 4)
    with pytest.raises(UnreadableError, match="not height x width"):
        read_image(load_reader("own_reader:wrong"), tmp_path / "a.npy", None)
    before = reader_identity("own_reader:read")
    (tmp_path / "own_reader.py").write_text("def read(path, frame): ...\n")
    assert reader_identity("own_reader:read") != before
    # A painted mask beside an own reader is still a picture.
    Image.fromarray(RAMP).save(tmp_path / "m.png")
    assert (read_mask(reader, tmp_path / "m.png", None, classes=0) == RAMP).all()
    sys.modules.pop("own_reader")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((2, 2), 1.5), "floats outside 0..1"),
        (np.full((2, 2), np.nan), "floats outside 0..1"),
        (np.zeros((2, 2), np.int32), "int32"),
        (np.zeros((0, 2), np.uint8), "shape"),
    ],
)
def test_a_reader_is_held_to_its_promise(values: np.ndarray, words: str) -> None:
    with pytest.raises(UnreadableError, match=words):
        read_image(lambda path, frame: values, Path("a"), None)


def test_a_reader_that_is_not_there() -> None:
    for name in ("no_such_package:read", "clients.data.readers:nothing"):
        with pytest.raises(InputError, match="reader"):
            load_reader(name)
    with pytest.raises(InputError, match="is no function"):
        load_reader("clients.data.readers:FORMATS")
