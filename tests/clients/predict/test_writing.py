"""Files that other tools read."""

from pathlib import Path

import av
import nrrd
import numpy as np
import pytest
from PIL import Image

from clients.predict.writing import OverlayVideo, drawn, write_map, write_png, write_seg_nrrd

LABELS = np.zeros((3, 20, 31), np.uint8)
LABELS[1, 5:9, 4:20] = 1
LABELS[2, 12:15, 25:30] = 2


def test_png_masks(tmp_path: Path) -> None:
    write_png(tmp_path / "one.png", LABELS[1], 1)
    assert set(np.unique(np.asarray(Image.open(tmp_path / "one.png")))) == {0, 255}
    write_png(tmp_path / "two.png", LABELS[2], 2)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "two.png")), LABELS[2])


def test_maps_keep_sixteen_bits(tmp_path: Path) -> None:
    plane = np.linspace(0, 1, 620, dtype=np.float32).reshape(20, 31)
    write_map(tmp_path / "m.png", plane)
    back = np.asarray(Image.open(tmp_path / "m.png")).astype(np.float64) / 65535
    np.testing.assert_allclose(back, plane, atol=1e-5)


def test_seg_nrrd_as_slicer_reads_it(tmp_path: Path) -> None:
    write_seg_nrrd(tmp_path / "a.seg.nrrd", LABELS, ["bone", "lesion"], (0.2, 0.1))
    data, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(data.transpose(2, 1, 0), LABELS)
    assert list(header["sizes"]) == [31, 20, 3]
    np.testing.assert_allclose(header["space directions"], np.diag([0.1, 0.2, 1.0]))
    assert header["space"] == "left-posterior-superior"
    assert header["Segment1_Name"] == "lesion"
    assert header["Segment1_LabelValue"] == "2"
    assert header["Segment0_Layer"] == "0"
    assert header["Segment0_Extent"] == "0 30 0 19 0 2"
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"


def test_outlines_lie_on_the_mask_s_rim() -> None:
    grey = np.full((20, 31), 90, np.uint8)
    picture = drawn(grey, LABELS[1])
    coloured = picture.max(axis=2) != picture.min(axis=2)
    assert coloured.any()
    assert not (coloured & (LABELS[1] == 0)).any()
    assert (picture[~coloured] == 90).all()
    flagged = drawn(grey, None, flagged=True)
    assert (flagged[0] == (255, 60, 60)).all()
    assert (flagged[10, 10] == 90).all()


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_overlay_video_in_the_clip_s_own_rate(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = OverlayVideo(tmp_path / "o.mp4", 12.5)
    for level in (40, 120, 200):
        clip.add(np.full((*size, 3), level, np.uint8))
    clip.close()
    with av.open(str(tmp_path / "o.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(12.5)
    assert [round(float(frame[:40, :60].mean()) / 10) for frame in frames] == [4, 12, 20]
    assert frames[0].shape == (48, 64, 3)
