"""What was selected and what is said of it, as files for other tools: `sonofed labels export`."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from clients.forms.coco import to_coco
from clients.forms.label_studio import interface, to_label_studio
from clients.forms.said import FOREGROUND
from clients.forms.tasks import Task, Tasks
from clients.label_file import IMAGE, OUTLINE
from clients.predict.writing import write_seg_nrrd
from clients.words import LABEL_COLUMNS, outline_path, read_mask_of
from common.errors import InputError

Form = Literal["coco", "labelstudio", "nrrd", "csv"]
FORMS: tuple[str, ...] = get_args(Form)

TABLE = "labels.csv"
COCO = "annotations.json"
LABEL_STUDIO = "tasks.json"
INTERFACE = "interface.xml"
IMAGES = "images"
PREFIX = f"/data/local-files/?d={IMAGES}/"
"""Where Label Studio finds them once the folder is its local storage."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: What the other tool opens.
        images: How many.
        labels: How many.
        outlines: How many.
    """

    path: Path
    images: int
    labels: int
    outlines: int


def export(tasks: Tasks, form: Form, out: Path) -> Exported:
    """Write the files; they hold images, and stay at the site.

    Args:
        tasks: The site's.
        form: For which tool.
        out: A folder that must not be there yet.

    Raises:
        InputError: If the folder is there, cannot be written, or an image cannot be read.
    """
    if out.exists():
        raise InputError(f"{out}: is there already; name a new folder")
    partial = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write = _table if form in ("nrrd", "csv") else _document
        path = out / write(tasks, form, partial).name
        partial.rename(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(
        path,
        len(tasks.tasks),
        sum(len(task.labels) for task in tasks.tasks),
        sum(len(task.outlines) for task in tasks.tasks),
    )


def _document(tasks: Tasks, form: Form, out: Path) -> Path:
    sizes = _pictures(tasks, out)
    if form == "coco":
        path, content = out / COCO, json.dumps(to_coco(tasks, sizes), indent=1)
    else:
        (out / INTERFACE).write_text(interface(tasks), encoding="utf-8")
        path = out / LABEL_STUDIO
        content = json.dumps(to_label_studio(tasks, sizes, PREFIX), indent=1)
    path.write_text(content + "\n", encoding="utf-8")
    return path


def _pictures(tasks: Tasks, out: Path) -> list[tuple[int, int]]:
    (out / IMAGES).mkdir()
    return [tasks.write_picture(task, out / IMAGES / f"{task.name}.png") for task in tasks.tasks]


def _table(tasks: Tasks, form: Form, out: Path) -> Path:
    """One line for each word, and an empty one for an image of which nothing is said."""
    if form == "nrrd":
        (out / IMAGES).mkdir()
        for task in tasks.tasks:
            tasks.write_volume(task, out / IMAGES / f"{task.name}.nrrd")
    with (out / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*LABEL_COLUMNS, IMAGE, OUTLINE))
        for task in tasks.tasks:
            image = f"{IMAGES}/{task.name}.nrrd" if form == "nrrd" else str(task.row.image)
            digest = task.image_sha256
            for label in task.labels.values():
                writer.writerow(
                    (task.row.id, label.label, label.reader, label.time, digest, image, "")
                )
            for number, outline in enumerate(task.outlines.values(), start=1):
                name = _outline(tasks, task, form, out, number, outline.outline)
                writer.writerow(
                    (task.row.id, "", outline.reader, outline.time, digest, image, name)
                )
            if not task.readers:
                writer.writerow((task.row.id, "", "", "", digest, image, ""))
    return out / TABLE


def _outline(tasks: Tasks, task: Task, form: Form, out: Path, number: int, outline: str) -> str:
    (out / "outlines").mkdir(exist_ok=True)
    name = f"outlines/{task.name}-{number}"
    if form == "csv":
        content = outline_path(tasks.site.folder, outline).read_bytes()
        (out / f"{name}.png").write_bytes(content)
        return f"{name}.png"
    classes = tasks.asked.classes
    plane = read_mask_of(tasks.site.folder, outline, len(classes))
    path = out / f"{name}.seg.nrrd"
    write_seg_nrrd(path, plane[None], classes or (FOREGROUND,), tasks.spacing_mm(task))
    return f"{name}.seg.nrrd"
