"""From files to masks: geometry, flags, areas, parity of the runtimes, and what is refused."""

import csv
import json
import re
from pathlib import Path

import av
import nrrd
import numpy as np
import pydicom
import pytest
from monai.bundle.scripts import run as run_bundle
from PIL import Image

from clients.predict.run import Outcome, Settings, predict
from common.bundle import files
from common.errors import InputError
from tests.bundles import Carried
from tests.ultrasound import moving, region, write_dicom, write_video

PLAIN = Settings(precision="fp32", draw_flagged=True)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def phantom(carried: Carried, site: str = "linear_pocket") -> list[Path]:
    return sorted((carried.data / site / "images").iterdir())


def frames_of(carried: Carried) -> np.ndarray:
    """Six phantom frames as a clip, (6, 48, 48)."""
    return np.stack([np.asarray(Image.open(path)) for path in phantom(carried)[:6]])


def test_a_folder_of_pictures(carried: Carried, tmp_path: Path) -> None:
    outcome = predict(carried.bundle, carried.data / "linear_pocket" / "images", tmp_path / "o",
                      PLAIN)  # fmt: skip
    rows = rows_of(tmp_path / "o")
    assert outcome.frames == len(rows) == 24
    assert outcome.frames_per_second > 0
    for row in rows:
        mask = np.asarray(Image.open(tmp_path / "o" / row["mask"]))
        assert mask.shape == (int(row["height"]), int(row["width"])) == (48, 48)
        assert int((mask > 0).sum()) == int(row["area_px"])
        assert row["area_mm2"] == ""
        assert 0 <= float(row["confidence"]) <= 1
    assert sum(int(row["area_px"]) for row in rows) > 0
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert record["bundle"] == files.bundle_digest(carried.bundle) == outcome.digest
    assert not list(tmp_path.glob(".o*"))


def test_the_mask_is_the_study_s_own(carried: Carried, tmp_path: Path) -> None:
    """Predict says of a test image what the study's evaluation kept of it."""
    site = carried.run / "sites" / "bo"
    test_ids = json.loads((site / "split.json").read_text())["test"]
    members = [
        np.load(site / "predictions" / f"{name}.npy")
        for name in ("mim.finetune_mim", "contrastive.finetune_contrastive")
    ]
    import torch

    from clients.infusion import fuse
    from clients.predict.masks import full_size
    from common.config.stages import Infusion

    fused = fuse([torch.from_numpy(member) for member in members], Infusion()).numpy()
    predict(carried.bundle, carried.data / "linear_pocket", tmp_path / "o", PLAIN)
    for number, name in enumerate(test_ids):
        ours = np.asarray(Image.open(tmp_path / "o" / f"{name}_mask.png")) > 0
        theirs = full_size(fused[number, 0], 48, 48) >= 0.5
        assert (ours != theirs).mean() <= 1e-3, name


def test_runtimes_and_monai_s_runner_agree(carried: Carried, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    sizes = [(70, 40), (33, 90)]
    for number, path in enumerate(phantom(carried)[:12]):
        resized = Image.open(path).resize(sizes[number % 2], Image.Resampling.BICUBIC)
        resized.save(images / path.name)
    predict(carried.bundle, images, tmp_path / "torch", PLAIN)
    onnx = Settings(runtime="onnx", precision="fp32", draw_flagged=True)
    predict(carried.bundle, images, tmp_path / "onnx", onnx)
    run_bundle(
        config_file=str(carried.bundle / files.INFERENCE), bundle_root=str(carried.bundle),
        dataset_dir=str(images), output_dir=str(tmp_path / "monai"),
    )  # fmt: skip
    masks = {
        name: [
            np.asarray(Image.open(path)) > 0 for path in sorted((tmp_path / name).glob("*mask.png"))
        ]
        for name in ("torch", "onnx", "monai")
    }
    assert [mask.shape[::-1] for mask in masks["torch"]] == sizes * 6
    assert 0 < np.mean([mask.mean() for mask in masks["torch"]]) < 1
    for name in ("onnx", "monai"):
        moved = [(a != b).mean() for a, b in zip(masks[name], masks["torch"], strict=True)]
        assert np.mean(moved) <= 1e-3, name


def test_quantised_onnx_stays_close(carried: Carried, tmp_path: Path) -> None:
    images = carried.data / "linear_pocket" / "images"
    for name, runtime, precision in (("a", "torch", "fp32"), ("b", "onnx", "int8")):
        settings = Settings(runtime=runtime, precision=precision, draw_flagged=True)  # type: ignore[arg-type]
        predict(carried.bundle, images, tmp_path / name, settings)
    masks = [
        np.stack([np.asarray(Image.open(p)) for p in sorted((tmp_path / name).glob("*mask.png"))])
        for name in ("a", "b")
    ]
    assert (masks[0] != masks[1]).mean() <= 5e-3


def test_a_dicom_clip_in_its_own_geometry(carried: Carried, tmp_path: Path) -> None:
    clip = frames_of(carried)
    whole = np.full((6, 70, 100), 255, np.uint8)  # burnt-in white all around
    whole[:, 11:59, 30:78] = clip
    path = write_dicom(tmp_path / "c.dcm", whole, regions=[region(30, 11, 77, 58)])
    predict(carried.bundle, path, tmp_path / "o", PLAIN)
    write_video(tmp_path / "plain.mp4", clip)
    images = tmp_path / "images"
    images.mkdir()
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(images / f"{number}.png")
    predict(carried.bundle, images, tmp_path / "p", PLAIN)
    rows = rows_of(tmp_path / "o")
    assert [row["frame"] for row in rows] == list("012345")
    for number, row in enumerate(rows):
        mask = np.asarray(Image.open(tmp_path / "o" / f"c_f{number:05d}_mask.png"))
        alone = np.asarray(Image.open(tmp_path / "p" / f"{number}_mask.png"))
        assert mask.shape == (70, 100)
        np.testing.assert_array_equal(mask[11:59, 30:78], alone)
        assert (mask > 0).sum() == (alone > 0).sum()
        assert float(row["area_mm2"]) == pytest.approx(int(row["area_px"]) * 0.02, rel=1e-3)
    with av.open(str(tmp_path / "o" / "c_overlay.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(25)
    assert len(pictures) == 6
    assert pictures[0].shape == (70, 100, 3)
    assert pictures[0][:8].max() < 40  # what was burned in is blank


def test_a_video_as_seg_nrrd_with_maps(carried: Carried, tmp_path: Path) -> None:
    write_video(tmp_path / "v.avi", frames_of(carried))
    settings = Settings(precision="fp32", masks="nrrd", maps=True, draw_flagged=True)
    predict(carried.bundle, tmp_path / "v.avi", tmp_path / "o", settings)
    data, header = nrrd.read(str(tmp_path / "o" / "v.seg.nrrd"))
    assert data.shape == (48, 48, 6)
    assert header["Segment0_Name"] == "foreground"
    areas = [int(row["area_px"]) for row in rows_of(tmp_path / "o")]
    assert [int(data[..., number].sum()) for number in range(6)] == areas
    for number in range(6):
        p = np.asarray(Image.open(tmp_path / "o" / f"v_f{number:05d}_probability.png")) / 65535
        assert int((p >= 0.5).sum()) == pytest.approx(areas[number], abs=1)
        assert (tmp_path / "o" / f"v_f{number:05d}_confidence.png").exists()
    assert not list((tmp_path / "o").glob("*_mask.png"))


def test_a_frame_unlike_training_gets_a_flag_and_no_mask(carried: Carried, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(225, 256, (48, 48), dtype=np.uint8)).save(images / "noise.png")
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(images / "black.png")
    Image.open(phantom(carried)[0]).save(images / "known.png")
    outcome = predict(carried.bundle, images, tmp_path / "o", Settings(precision="fp32"))
    rows = {row["source"]: row for row in rows_of(tmp_path / "o")}
    assert "grey" in rows["noise"]["flag"]
    assert "empty" in rows["black"]["flag"]
    assert rows["known"]["flag"] == ""
    assert (outcome.flagged, outcome.withheld) == (2, 2)
    assert [rows[name]["mask"] for name in ("noise", "black")] == ["", ""]
    assert {path.name for path in (tmp_path / "o").glob("*mask.png")} == {"known_mask.png"}
    predict(carried.bundle, images, tmp_path / "p", Settings(precision="fp32", draw_flagged=True))
    assert rows_of(tmp_path / "p")[2]["flag"] == rows["noise"]["flag"]
    assert (tmp_path / "p" / "noise_mask.png").exists()


def test_one_bad_file_does_not_stop_the_others(carried: Carried, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.open(phantom(carried)[0]).save(images / "good.png")
    (images / "text.png").write_text("no picture")
    write_dicom(images / "ct.dcm", moving(2), header={"Modality": "CT", "SOPClassUID": "1.2.3"})
    photo = np.stack([moving(1)[0], 255 - moving(1)[0], moving(1)[0]], axis=-1)
    write_video(images / "photo.mp4", np.stack([photo] * 4))
    (images / "notes.txt").write_text("mine")
    outcome = predict(carried.bundle, images, tmp_path / "o", PLAIN)
    assert (outcome.frames, outcome.others) == (1, 1)
    said = "\n".join(outcome.refused)
    assert "is no ultrasound: its modality is CT" in said
    assert "cannot be read as an image" in said
    assert said.count("is no grey ultrasound") == 1  # once for all frames of the clip
    refused = [row for row in rows_of(tmp_path / "o") if row["flag"] == "refused"]
    assert len(refused) == 6
    assert all(row["note"] and not row["mask"] for row in refused)


def test_each_wrong_file_is_named_with_its_fault(carried: Carried, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rows, columns = np.mgrid[:90, :120]
    photo = np.stack([2 * rows, 2 * columns, 255 - 2 * rows], axis=-1).astype(np.uint8)
    Image.fromarray(photo).save(images / "photo.jpg")
    whole = write_dicom(images / "cut.dcm", moving(4)).read_bytes()
    (images / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    write_dicom(images / "none.dcm", moving(1), header={"NumberOfFrames": 0})
    strange = pydicom.dcmread(write_dicom(images / "strange.dcm", moving(1)))
    strange.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
    strange.PixelData = pydicom.encaps.encapsulate([b"\0\0"])
    strange["PixelData"].is_undefined_length = True
    strange.save_as(images / "strange.dcm")
    (images / "text.bmp").write_text("no picture")
    write_video(images / "tiny.mp4", frames_of(carried))
    (images / "tiny.mp4").write_bytes((images / "tiny.mp4").read_bytes()[:60])
    Image.open(phantom(carried)[0]).save(images / "good.png")
    outcome = predict(carried.bundle, images, tmp_path / "o", PLAIN)
    assert outcome.frames == 1
    notes = {row["source"]: row["note"] for row in rows_of(tmp_path / "o")}
    faults = {
        "photo": "is no grey ultrasound: .* of its pixels are coloured",
        "cut": "is cut short: .* bytes of its pixels are there",
        "none": "holds no frame",
        "strange": r"High-Throughput.*1\.2\.840.*not supported",
        "text": r"cannot be read as an image \(it is none, or of a kind that is not known\)",
        "tiny": "cannot be read as a video",
    }
    assert set(notes) == {*faults, "good"}
    for name, words in faults.items():
        assert re.search(words, notes[name]), (name, notes[name])
        assert any(str(images / name) in said for said in outcome.refused)


def refusal(bundle: Path, given: Path, out: Path, settings: Settings = PLAIN) -> str:
    with pytest.raises(InputError) as caught:
        predict(bundle, given, out, settings)
    assert not (out / "predictions.csv").exists()
    return str(caught.value)


def test_refusals(carried: Carried, tmp_path: Path) -> None:
    good, out = phantom(carried)[0], tmp_path / "o"
    (tmp_path / "text.png").write_text("no picture")
    assert "cannot be read as an image" in refusal(carried.bundle, tmp_path / "text.png", out)
    empty = write_dicom(tmp_path / "e.dcm", moving(1), header={"NumberOfFrames": 0})
    assert "holds no frame" in refusal(carried.bundle, empty, out)
    assert "no such bundle folder" in refusal(tmp_path / "none", good, out)
    assert "not an empty folder" in refusal(carried.bundle, good, good.parent)
    assert "bf16 is torch's alone" in refusal(
        carried.bundle, good, out, Settings(runtime="onnx", precision="bf16")
    )
    assert "there is no such device" in refusal(
        carried.bundle, good, out, Settings(precision="fp32", device="cuda:7")
    )


def test_a_changed_or_newer_bundle_is_refused(
    carried: Carried, own_bundle: Path, tmp_path: Path
) -> None:
    good, out = phantom(carried)[0], tmp_path / "o"
    path = own_bundle / files.REFERENCE
    path.write_text(path.read_text().replace("0.1", "0.2", 1))
    assert "reference.json: has been changed" in refusal(own_bundle, good, out)
    for name in (files.ENSEMBLE, files.DIGESTS):
        raw = json.loads((own_bundle / name).read_text())
        (own_bundle / name).write_text(json.dumps({**raw, "version": 2}))
    assert "bundle version 2 is newer" in refusal(own_bundle, good, out)


def test_calibration_fits_batch_norm_to_the_device(
    carried: Carried, own_bundle: Path, tmp_path: Path
) -> None:
    images = carried.data / "linear_pocket" / "images"
    raw = json.loads((own_bundle / files.ENSEMBLE).read_text())

    def with_calibration(kind: str) -> None:
        (own_bundle / files.ENSEMBLE).write_text(json.dumps({**raw, "calibration": kind}))
        files.write_digests(own_bundle)

    with_calibration("required")
    assert "--calibrate FOLDER takes them" in refusal(own_bundle, images, tmp_path / "o")
    calibrated = Settings(precision="fp32", draw_flagged=True, calibrate=images)
    predict(own_bundle, images, tmp_path / "fitted", calibrated)
    with_calibration("advised")
    outcome: Outcome = predict(own_bundle, images, tmp_path / "plain", PLAIN)
    assert any("--calibrate FOLDER fits them" in words for words in outcome.warnings)
    areas = [[row["area_px"] for row in rows_of(tmp_path / name)] for name in ("fitted", "plain")]
    assert areas[0] != areas[1]
    onnx = Settings(runtime="onnx", precision="fp32", calibrate=images)
    assert "needs --runtime torch" in refusal(own_bundle, images, tmp_path / "o", onnx)
