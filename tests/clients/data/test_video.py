"""Video files, by frame number, in any order."""

from pathlib import Path

import numpy as np
import pytest

from clients.data.readers import UnreadableError, picture_size, read_file
from clients.data.video import luma, open_video
from tests.ultrasound import moving, write_video

FRAMES = moving(6)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_every_frame_in_any_order(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, FRAMES)
    clip = open_video(path)
    assert clip.count == 6
    assert clip.rate == 25
    for number in (0, 1, 5, 2, 2, 4):
        grey = read_file(path, number)
        assert grey.dtype == np.uint8
        assert np.abs(grey.astype(int) - FRAMES[number]).mean() < 5, number
    assert picture_size(read_file, path, 0) == (48, 64)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", FRAMES)
    with pytest.raises(UnreadableError, match="has no frame 6; its frames go from 0 to 5"):
        read_file(path, 6)
    read_file(path, 1)  # and it goes on afterwards
    with pytest.raises(UnreadableError, match="is a video, and its row names no frame"):
        read_file(path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnreadableError, match="cannot be read as a video"):
        read_file(tmp_path / "text.mp4", 0)


def test_luma_is_pillow_s() -> None:
    from PIL import Image

    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(luma(rgb), np.asarray(Image.fromarray(rgb).convert("L")))
    grey = np.repeat(rgb[..., :1], 3, axis=2)
    np.testing.assert_array_equal(luma(grey), grey[..., 0])
