"""Letters in an image are found where they stand; ultrasound without letters has none."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clients.data.burnt_in import find_letters
from clients.phantom.write import generate


def written(text: str, grey: int, background: NDArray[np.uint8], size: int = 14) -> Image.Image:
    picture = Image.fromarray(background.copy())
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text((30, 40), text, fill=grey, font=font)
    return picture


def speckle(seed: int, level: int = 70) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return np.clip(level * rng.rayleigh(0.8, (160, 240)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("grey", [200, 255])
@pytest.mark.parametrize("size", [12, 16, 24])
def test_a_name_is_found_where_it_stands(grey: int, size: int) -> None:
    dark = np.full((160, 240), 20, np.uint8)
    (found,) = find_letters(np.asarray(written("MUSTER ANNA", grey, dark, size)))
    assert 28 <= found.left <= 36
    assert 40 <= found.top < found.bottom <= 40 + 2 * size
    assert found.count >= 4


def test_dark_letters_on_a_bright_ground_count_too() -> None:
    bright = np.full((160, 240), 220, np.uint8)
    assert find_letters(np.asarray(written("MUSTER ANNA", 10, bright)))


@pytest.mark.parametrize("seed", range(5))
def test_speckle_alone_is_no_text(seed: int) -> None:
    assert find_letters(speckle(seed)) == []


def test_phantom_sweeps_hold_no_text(tmp_path: Path) -> None:
    generate(tmp_path, anatomy="breast", probes=("convex",), patients=3, frames=2, side=224)
    for path in (tmp_path / "convex" / "images").iterdir():
        assert find_letters(np.asarray(Image.open(path))) == []


def test_a_scale_of_ticks_or_a_small_image_is_no_text() -> None:
    ruler = np.zeros((160, 240), np.uint8)
    ruler[20:140:10, 230:236] = 255
    assert find_letters(ruler) == []
    assert find_letters(np.zeros((8, 8), np.uint8)) == []
