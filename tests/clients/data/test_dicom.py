"""DICOM ultrasound as scanners write it: every usual coding, and what is shown of a frame."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    MPEG4HP41,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from clients.data.check import check_folder
from clients.data.dicom import is_dicom, open_dicom
from clients.data.readers import UnreadableError, coloured_share, picture_size, read_file
from clients.data.site import SiteData
from clients.settings import SiteSettings
from common.config.data import DataSpec, SplitConfig
from tests.ultrasound import moving, region, write_dicom, write_video

FRAMES = moving()
COLOUR = np.stack([FRAMES, FRAMES, 255 - FRAMES], axis=-1)


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99",
        RLELossless, JPEG2000Lossless, JPEGLSLossless,
    ],
)  # fmt: skip
def test_lossless_codings_give_every_pixel(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", FRAMES, syntax=syntax)
    for number in (2, 0, 3):
        np.testing.assert_array_equal(read_file(path, number), FRAMES[number])


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", JPEGLosslessSV1, JPEGLSLossless])
def test_colours_are_kept_until_they_become_grey(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", COLOUR, syntax=syntax)
    np.testing.assert_array_equal(open_dicom(path).whole(1), COLOUR[1])
    assert coloured_share(path, 1) > 0.5
    grey = write_dicom(tmp_path / "g.dcm", np.repeat(FRAMES[..., None], 3, -1), syntax=syntax)
    np.testing.assert_array_equal(read_file(grey, 1), FRAMES[1])
    assert coloured_share(grey, 1) == 0


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, MPEG4HP41])
def test_lossy_codings_come_close(tmp_path: Path, syntax: str) -> None:
    colour = np.repeat(FRAMES[..., None], 3, -1) if syntax == MPEG4HP41 else FRAMES
    path = write_dicom(tmp_path / "a.dcm", colour, syntax=syntax)
    for number in (3, 1):
        assert np.abs(read_file(path, number).astype(int) - FRAMES[number]).mean() < 4


def test_sixteen_bits_and_inverted_grey(tmp_path: Path) -> None:
    deep = FRAMES.astype(np.uint16) * np.uint16(257)
    np.testing.assert_array_equal(read_file(write_dicom(tmp_path / "d.dcm", deep), 1), deep[1])
    twelve = FRAMES.astype(np.uint16) * np.uint16(16)
    path = write_dicom(tmp_path / "t.dcm", twelve, header={"BitsStored": 12, "HighBit": 11})
    assert read_file(path, 1).max() == round(int(twelve[1].max()) * 65535 / 4095)
    turned = write_dicom(tmp_path / "m.dcm", 255 - FRAMES, photometric="MONOCHROME1")
    np.testing.assert_array_equal(read_file(turned, 1), FRAMES[1])


def test_only_regions_are_shown(tmp_path: Path) -> None:
    burnt = FRAMES.copy()
    burnt[:, :8] = 255  # the patient's name above the beam
    burnt[:, :, 40:] = 255  # the settings beside it
    regions = [region(4, 10, 19, 29), region(24, 8, 35, 39)]
    path = write_dicom(tmp_path / "a.dcm", burnt, regions=regions)
    clip = open_dicom(path)
    assert (clip.box.top, clip.box.bottom, clip.box.left, clip.box.right) == (8, 40, 4, 36)
    assert picture_size(read_file, path, 0) == (32, 32)
    shown = read_file(path, 2)
    np.testing.assert_array_equal(shown[2:22, :16], FRAMES[2, 10:30, 4:20])
    np.testing.assert_array_equal(shown[:, 20:], FRAMES[2, 8:40, 24:36])
    assert not shown[:, 16:20].any()
    assert not shown[:2, :16].any()
    assert shown.max() < 255


def test_spacing_frame_time_and_probe(tmp_path: Path) -> None:
    clip = open_dicom(write_dicom(tmp_path / "a.dcm", FRAMES, regions=[region(0, 0, 9, 9)]))
    assert clip.spacing_mm == pytest.approx((0.2, 0.1))
    assert clip.frame_time_ms == 40
    assert clip.probe == "C5-1"  # and not the serial number behind it
    other = [region(0, 0, 9, 9), region(20, 0, 29, 9, cm=0.02)]
    assert open_dicom(write_dicom(tmp_path / "b.dcm", FRAMES, regions=other)).spacing_mm is None
    unknown = [region(0, 0, 9, 9, cm=None)]
    assert open_dicom(write_dicom(tmp_path / "c.dcm", FRAMES, regions=unknown)).spacing_mm is None
    header = {"FrameTime": None, "CineRate": 20}
    assert open_dicom(write_dicom(tmp_path / "e.dcm", FRAMES, header=header)).frame_time_ms == 50


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    def says(path: Path, words: str, frame: int | None = 0) -> None:
        with pytest.raises(UnreadableError, match=words) as caught:
            read_file(path, frame)
        assert str(tmp_path) not in str(caught.value)

    whole = write_dicom(tmp_path / "whole.dcm", FRAMES)
    says(whole, "has no frame 4; its frames go from 0 to 3", 4)
    says(whole, "holds 4 frames, and its row names none", None)
    (tmp_path / "cut.dcm").write_bytes(whole.read_bytes()[:-5000])
    says(tmp_path / "cut.dcm", "cut short|damaged")
    (tmp_path / "text.dcm").write_text("no picture")
    says(tmp_path / "text.dcm", "is no DICOM file")
    says(
        write_dicom(
            tmp_path / "ct.dcm", FRAMES,
            header={"Modality": "CT", "SOPClassUID": pydicom.uid.CTImageStorage},
        ),
        "is no ultrasound: its modality is CT",
    )  # fmt: skip
    says(write_dicom(tmp_path / "none.dcm", FRAMES, header={"NumberOfFrames": 0}), "holds no frame")
    says(write_dicom(tmp_path / "bare.dcm", FRAMES, header={"PixelData": None}), "holds no frame")
    says(
        write_dicom(tmp_path / "m.dcm", FRAMES, regions=[region(0, 0, 9, 9, kind=2)]),
        "has no two-dimensional region",
    )
    says(
        write_dicom(tmp_path / "o.dcm", FRAMES, regions=[region(90, 0, 99, 9)]),
        "lies outside its frame",
    )


def test_an_unsupported_transfer_syntax_is_named(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", FRAMES)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
    ds.PixelData = pydicom.encaps.encapsulate([b"\0\0"])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    with pytest.raises(UnreadableError, match=r"High-Throughput.*1\.2\.840.*not supported"):
        read_file(path, 0)


def test_a_compressed_frame_cut_short_is_said(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", FRAMES, syntax=JPEGBaseline8Bit)
    ds = pydicom.dcmread(path)
    frames = list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=4))
    ds.PixelData = pydicom.encaps.encapsulate([*frames[:3], frames[3][:40]])
    ds.save_as(path)
    read_file(path, 0)
    with pytest.raises(UnreadableError, match="cannot be decoded at frame 3"):
        read_file(path, 3)


def test_dicom_is_known_by_its_bytes_where_it_has_no_ending(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "1.2.840.77", FRAMES[:1])
    assert is_dicom(path)
    np.testing.assert_array_equal(read_file(path), FRAMES[0])
    (tmp_path / "README").write_text("text")
    assert not is_dicom(tmp_path / "README")


def test_a_manifest_names_frames_and_a_mask_of_the_whole_frame(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_dicom(folder / "a.dcm", FRAMES, regions=[region(8, 8, 39, 39)])
    write_video(folder / "b.mp4", FRAMES)
    mask = np.zeros(FRAMES.shape[1:], np.uint8)
    mask[16:24, 8:40] = 255
    Image.fromarray(mask).save(folder / "whole.png")
    Image.fromarray(mask[8:40, 8:40]).save(folder / "cut.png")
    Image.fromarray(mask[:10]).save(folder / "wrong.png")
    lines = ["id,image,mask,video,frame", "a0,a.dcm,whole.png,a,0", "a2,a.dcm,cut.png,a,2",
             "b3,b.mp4,whole.png,b,3"]  # fmt: skip
    (folder / "index.csv").write_text("\n".join(lines))
    settings = SiteSettings(
        name="here", role="source", data=DataSpec(folder="data"), data_root=tmp_path,
        folder=tmp_path / "site", cache=tmp_path / "cache",
    )  # fmt: skip
    site = SiteData.open(settings, side=32, split=SplitConfig(val=0, test=0))
    np.testing.assert_array_equal(site.images([1])[0], FRAMES[2, 8:40, 8:40])
    masks = site.masks([0, 1, 2], stage="finetune")
    np.testing.assert_array_equal(masks[0], masks[1])
    assert masks[0, 0, 8:16].all()
    assert masks[0].sum() == 8 * 32
    assert check_folder(folder, DataSpec(folder=".")).errors == []
    (folder / "index.csv").write_text("\n".join([*lines[:1], "a0,a.dcm,wrong.png,a,0"]))
    (fault,) = check_folder(folder, DataSpec(folder=".")).errors
    assert "is 64 x 10 pixels, its image 32 x 32" in fault
