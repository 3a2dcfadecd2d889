"""Out to other tools and back: whole, once, and only for images that are still the same."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest

from clients.annotations import all_worklists
from clients.asked import Asked
from clients.consensus import words_of
from clients.data.cache import Digests
from clients.forms.bring import bring
from clients.forms.export import FORMS, Form, export
from clients.forms.tasks import read_tasks
from clients.settings import SiteSettings
from clients.words import (
    Label,
    Outline,
    add_labels,
    add_outlines,
    mask_file,
    read_labels,
    read_mask_of,
    read_outlines,
    utc,
)
from common.errors import InputError
from tests.clients.chosen import IDS, choose_all, site_of

CLASSES = ("lesion", "shadow")
FILES = {"coco": "annotations.json", "labelstudio": "tasks.json", "nrrd": "", "csv": ""}
SIZE = (32, 32)


def asked_of(*classes: str, outlines: bool = True) -> Asked:
    return Asked(study="chosen", labels=("benign", "malignant"), classes=classes, outlines=outlines)


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    found = site_of(tmp_path)
    choose_all(found)
    found.cache.mkdir()
    return found


def mask_of(seed: int, classes: int) -> Any:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    plane = ((rows - 14) ** 2 + (columns - 10 - seed) ** 2 < 50).astype(np.uint8)
    if classes:
        plane[24:27, 3:29] = 2
    return plane


def fill(site: SiteSettings, classes: int) -> None:
    """Two readers, of whom one outlines too; one image has nothing to outline."""
    digests = Digests(site.cache)

    def digest(id_: str) -> str:
        return digests.of(site.data_folder / f"{id_}.png")

    add_labels(site.folder, [
        Label("i00", "benign", "Dr Ü", utc("2026-03-01"), digest("i00")),
        Label("i00", "malignant", 'Dr "B"', utc("2026-03-02T10:00:00.250Z"), digest("i00")),
        Label("i03", "malignant", "Dr Ü", utc("2026-03-03"), digest("i03")),
    ])  # fmt: skip
    for id_, mask in (("i00", mask_of(0, classes)), ("i02", mask_of(5, classes)),
                      ("i03", np.zeros(SIZE, np.uint8))):  # fmt: skip
        name, content = mask_file(mask, classes)
        line = Outline(id_, name, "Dr Ü", utc("2026-03-04"), digest(id_))
        add_outlines(site.folder, [line], {name: content})


def standing(site: SiteSettings) -> tuple[Any, Any]:
    return words_of(read_labels(site.folder)), words_of(read_outlines(site.folder))


def forget(site: SiteSettings) -> None:
    for name in ("labels.csv", "outlines.csv", "outlines"):
        path = site.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def take(path: Path, site: SiteSettings, asked: Asked, reader: str = "") -> Any:
    return bring(path, site, asked, all_worklists(site.folder), reader)


def problems_of(path: Path, site: SiteSettings, asked: Asked, reader: str = "") -> list[str]:
    with pytest.raises(InputError) as caught:
        take(path, site, asked, reader)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


@pytest.mark.parametrize("classes", [(), CLASSES], ids=["binary", "classes"])
@pytest.mark.parametrize("form", FORMS)
def test_out_and_back_whole_and_once(
    site: SiteSettings, tmp_path: Path, form: Form, classes: tuple[str, ...]
) -> None:
    asked = asked_of(*classes)
    fill(site, len(classes))
    before = standing(site)
    out = tmp_path / "out"
    found = export(read_tasks(site, asked), form, out)
    assert (found.images, found.labels, found.outlines) == (8, 3, 3)
    assert found.path.is_file()
    path = out / FILES[form] if FILES[form] else out
    again, _ = take(path, site, asked)
    assert (again.labels, again.outlines, again.known) == ([], [], 6)
    forget(site)
    taken, silent = take(path, site, asked)
    assert standing(site) == before
    assert (len(taken.labels), len(taken.outlines), taken.known) == (3, 3, 0)
    assert silent == (5 if form in ("csv", "nrrd") else 0)
    mask = read_mask_of(site.folder, before[1]["i02"]["Dr Ü"].outline, len(classes))
    assert np.array_equal(mask, mask_of(5, len(classes)))


@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_changed_meanwhile(site: SiteSettings, tmp_path: Path, form: Form) -> None:
    fill(site, 0)
    out = tmp_path / "out"
    export(read_tasks(site, asked_of()), form, out)
    forget(site)
    (site.data_folder / "i03.png").write_bytes((site.data_folder / "i11.png").read_bytes())
    said = problems_of(out / FILES[form] if FILES[form] else out, site, asked_of())
    assert said
    words = "has changed since" if FILES[form] else "is not the one that was annotated"
    assert all(words in line for line in said)
    assert read_labels(site.folder) == []
    assert read_outlines(site.folder) == []


@pytest.mark.parametrize("form", FORMS)
def test_nobody_is_named_by_a_file_that_goes_out(
    site: SiteSettings, tmp_path: Path, form: Form
) -> None:
    """Other tools often run elsewhere in the hospital: their files have no path and no id."""
    fill(site, 0)
    out = tmp_path / "out"
    export(read_tasks(site, asked_of()), form, out)
    names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    assert not [name for name in names for id_ in IDS if id_ in name]
    if form in ("coco", "labelstudio"):
        text = next(out.glob("*.json")).read_text()
        assert not [id_ for id_ in IDS if id_ in text]
        assert str(tmp_path) not in text


def test_an_export_is_never_written_over(site: SiteSettings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        export(read_tasks(site, asked_of()), "coco", tmp_path)
    (site.data_folder / "i00.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read as an image"):
        export(read_tasks(site, asked_of()), "coco", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def coco_of(site: SiteSettings, tmp_path: Path, asked: Asked) -> tuple[Path, dict[str, Any]]:
    out = tmp_path / "coco"
    path = export(read_tasks(site, asked), "coco", out).path
    return path, json.loads(path.read_text())


def test_polygons_of_another_tool(site: SiteSettings, tmp_path: Path) -> None:
    """CVAT's way: a polygon whose category is the label; no reader, no time, renamed folders."""
    path, document = coco_of(site, tmp_path, asked_of())
    number = next(c["id"] for c in document["categories"] if c["name"] == "malignant")
    square = [4, 6, 10, 6, 10, 20, 4, 20]
    document["annotations"] = [
        {"id": 7, "image_id": 1, "category_id": number, "segmentation": [square], "iscrowd": 0}
    ]
    for image in document["images"]:
        image["file_name"] = f"batch/7af3-{image['file_name'].replace('.png', '.jpg')}"
    path.write_text(json.dumps(document))
    assert problems_of(path, site, asked_of())[0] == "annotation 7: names no reader"
    taken, _ = take(path, site, asked_of(), "Dr A")
    assert [(x.id, x.label, x.reader) for x in taken.labels] == [("i00", "malignant", "Dr A")]
    mask = read_mask_of(site.folder, taken.outlines[0].outline, 0)
    wanted = np.zeros(SIZE, np.uint8)
    wanted[6:20, 4:10] = 1
    assert np.array_equal(mask, wanted)
    path.touch()  # the same words again, only later: nothing is new
    again, _ = take(path, site, asked_of(), "Dr A")
    assert (again.labels, again.outlines, again.known) == ([], [], 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["annotations"][0].update(category_id=9), "an annotation lacks 9"),
        (lambda d: d["annotations"][0].update(image_id=99), "an annotation lacks 99"),
        (lambda d: d["categories"][0].update(name="cyst"), "the category 'cyst' is none of"),
        (lambda d: d["images"][0].update(file_name="a.png"), "none that was exported from here"),
        (lambda d: d["annotations"][-1].update(segmentation={"counts": [3], "size": [32, 32]}),
         "run lengths of 3 pixels for 32 x 32"),
        (lambda d: d["annotations"][-1].update(segmentation={"counts": [6], "size": [2, 3]}),
         "the outline is 3 x 2 pixels, its image 32 x 32"),
        (lambda d: d["annotations"][-1].update(segmentation=["x"]), "neither polygons nor run"),
        (lambda d: d["annotations"][0]["attributes"].update(time="then"), "is not ISO 8601"),
        (lambda d: d.pop("images"), "is no COCO document (it lacks 'images')"),
    ],
)  # fmt: skip
def test_a_coco_document_that_is_wrong(
    site: SiteSettings, tmp_path: Path, change: Callable[[Any], Any], words: str
) -> None:
    fill(site, 0)
    path, document = coco_of(site, tmp_path, asked_of())
    forget(site)
    change(document)
    path.write_text(json.dumps(document))
    said = problems_of(path, site, asked_of())
    assert any(words in line for line in said), said
    assert read_labels(site.folder) == []


def test_label_studio_as_it_exports(site: SiteSettings, tmp_path: Path) -> None:
    """Uploaded images, a polygon in per cent, an e-mail for a name, a cancelled annotation."""
    asked = asked_of(*CLASSES)
    out = tmp_path / "ls"
    path = export(read_tasks(site, asked), "labelstudio", out).path
    assert 'Choice value="malignant"' in (out / "interface.xml").read_text()
    document = json.loads(path.read_text())[:2]
    for number, task in enumerate(document):
        name = task["data"]["image"].rpartition("/")[2]
        task["data"]["image"] = f"/data/upload/3/{number:08x}-{name}"
    points = [[25, 50], [75, 50], [75, 75], [25, 75]]
    result: list[dict[str, Any]] = [
        {"type": "choices", "from_name": "label", "value": {"choices": ["benign"]}},
        {"type": "polygonlabels", "original_width": 32, "original_height": 32,
         "value": {"points": points, "polygonlabels": ["shadow"]}},
    ]  # fmt: skip
    annotation = {
        "completed_by": {"id": 1, "email": "a@hospital.example"}, "result": result,
        "created_at": "2026-03-01T09:30:00.123456Z", "was_cancelled": False,
    }  # fmt: skip
    document[0]["annotations"] = [annotation, {**annotation, "was_cancelled": True}]
    path.write_text(json.dumps(document))
    taken, _ = take(path, site, asked)
    (label,), (outline,) = taken.labels, taken.outlines
    assert (label.reader, label.time) == ("a@hospital.example", "2026-03-01T09:30:00.123456Z")
    mask = read_mask_of(site.folder, outline.outline, 2)
    wanted = np.zeros(SIZE, np.uint8)
    wanted[16:24, 8:24] = 2
    assert np.array_equal(mask, wanted)
    for kind, words in (("rectanglelabels", "is no outline"), ("polygonlabels", "['cyst']")):
        value = {"points": points, kind: ["shadow" if kind[0] == "r" else "cyst"]}
        document[0]["annotations"][0]["result"] = [{**result[1], "type": kind, "value": value}]
        path.write_text(json.dumps(document))
        assert words in problems_of(path, site, asked)[0]
    document[0]["data"] = {}
    path.write_text(json.dumps(document))
    assert problems_of(path, site, asked) == [
        "task 1: is no task of Label Studio (it lacks 'image')"
    ]


def test_a_segmentation_that_slicer_cut_to_its_extent(site: SiteSettings, tmp_path: Path) -> None:
    asked = asked_of(*CLASSES)
    fill(site, 2)
    out = tmp_path / "slicer"
    export(read_tasks(site, asked), "nrrd", out)
    before = standing(site)
    forget(site)
    path = next(out.glob("outlines/0001-*.seg.nrrd"))
    values, header = nrrd.read(str(path))
    image, image_header = nrrd.read(str(next(out.glob("images/0001-*.nrrd"))))
    assert image.shape == values.shape
    assert np.array_equal(header["space directions"], image_header["space directions"])
    used = np.argwhere(values)
    (left, top, _), (right, bottom, _) = used.min(0), used.max(0)
    header["Segmentation_ReferenceImageExtentOffset"] = f"{left} {top} 0"
    cut = values[left : right + 1, top : bottom + 1]
    nrrd.write(str(path), cut, {k: v for k, v in header.items() if k != "sizes"})
    take(out, site, asked)
    assert standing(site) == before
    header["Segment0_Name"] = "cyst"
    nrrd.write(str(path), cut, {k: v for k, v in header.items() if k != "sizes"})
    assert "has a segment 'cyst', which is none of lesion, shadow" in problems_of(out, site, asked)[
        0
    ].removeprefix(str(out))
    path.write_bytes(b"NRRD")
    with pytest.raises(InputError, match="is no NRRD that can be read"):
        take(out, site, asked)
    path.unlink()
    with pytest.raises(InputError, match="is not there"):
        take(out, site, asked)


def test_a_mask_edited_in_another_tool_is_a_later_word(site: SiteSettings, tmp_path: Path) -> None:
    fill(site, 0)
    out = tmp_path / "csv"
    export(read_tasks(site, asked_of()), "csv", out)
    table = out / "labels.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    row = next(row for row in rows if row["outline"] and row["id"] == "i02")
    digest, content = mask_file(mask_of(8, 0), 0)
    (out / row["outline"]).write_bytes(content)
    row["time"] = "2026-03-09"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows(rows)
    taken, _ = take(out, site, asked_of())
    assert [(x.id, x.outline) for x in taken.outlines] == [("i02", digest)]
    assert taken.known == 5


def test_files_that_are_none(site: SiteSettings, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert "cannot be read" in problems_of(path, site, asked_of())[0]
    path.write_text("{")
    assert "is not readable as JSON" in problems_of(path, site, asked_of())[0]
    path.write_text("3")
    assert "is no COCO document" in problems_of(path, site, asked_of())[0]
    with pytest.raises(InputError, match="cannot be read"):
        take(tmp_path, site, asked_of())
