"""What may be given, and what is refused with which words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.data.readers import UnreadableError
from clients.predict.sources import find_sources
from common.errors import InputError
from tests.ultrasound import moving, region, write_dicom, write_video

FRAMES = moving(3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "in"
    (place / "sub").mkdir(parents=True)
    Image.fromarray(FRAMES[0]).save(place / "a.png")
    Image.fromarray(FRAMES[1]).save(place / "a.tif")
    Image.fromarray(FRAMES[1]).save(place / "sub" / "b c.png")
    pages = [Image.fromarray(frame) for frame in FRAMES]
    pages[0].save(place / "pages.tif", save_all=True, append_images=pages[1:])
    write_dicom(place / "d.dcm", FRAMES, regions=[region(8, 4, 39, 35)])
    write_video(place / "v.mp4", FRAMES)
    (place / "notes.txt").write_text("mine")
    return place


def test_a_folder_at_any_depth(folder: Path) -> None:
    sources, others = find_sources(folder)
    assert others == 1
    assert {source.name: len(source.frames()) for source in sources} == {
        "a_png": 1, "a_tif": 1, "d": 3, "pages": 3, "sub_b_c": 1, "v": 3,
    }  # fmt: skip
    by_name = {source.name: source for source in sources}
    assert [name for name, source in by_name.items() if source.is_clip] == ["d", "v"]
    np.testing.assert_array_equal(by_name["pages"].shot(2).grey_hw, FRAMES[2])
    assert by_name["d"].frame_rate == 25
    assert by_name["v"].frame_rate == 25
    assert by_name["a_png"].frame_rate is None


def test_of_a_dicom_the_regions_and_their_place(folder: Path) -> None:
    (source,) = find_sources(folder / "d.dcm")[0]
    shot = source.shot(1)
    np.testing.assert_array_equal(shot.grey_hw, FRAMES[1, 4:36, 8:40])
    assert (shot.top, shot.left, shot.height, shot.width) == (4, 8, 48, 64)
    assert shot.spacing_mm == pytest.approx((0.2, 0.1))


def test_a_manifest_names_frames(folder: Path) -> None:
    lines = ["id,image,video,frame", "x,d.dcm,d,2", "y,a.png,s,77", "z,v.mp4,v,1"]
    (folder / "index.csv").write_text("\n".join(lines))
    for given in (folder, folder / "index.csv"):
        sources, _ = find_sources(given)
        assert [(source.name, source.frames()) for source in sources] == [
            ("x", [2]), ("y", [0]), ("z", [1]),
        ]  # fmt: skip
    np.testing.assert_array_equal(sources[1].shot(0).grey_hw, FRAMES[0])
    assert not sources[0].is_clip


def test_a_colour_photo_is_said_not_guessed(tmp_path: Path) -> None:
    photo = np.stack([FRAMES[0], 255 - FRAMES[0], FRAMES[1]], axis=-1)
    Image.fromarray(photo).save(tmp_path / "a.png")
    write_video(tmp_path / "b.mp4", np.stack([photo] * 3))
    for name in ("a.png", "b.mp4"):
        (source,) = find_sources(tmp_path / name)[0]
        with pytest.raises(UnreadableError, match=r"is no grey ultrasound: \d+% of its pixels"):
            source.shot(0)
        assert source.shot(0, colour=True).grey_hw.shape == (48, 64)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_sources(tmp_path / "none")
    with pytest.raises(InputError, match="holds no picture, DICOM or video"):
        find_sources(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is no picture, DICOM or video"):
        find_sources(tmp_path / "notes.txt")
