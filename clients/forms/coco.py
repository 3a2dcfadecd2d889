"""COCO's JSON, as CVAT, FiftyOne and their kin write and read it.

Labels and outlines are annotations alike: a label's is as large as its image. In a binary study a
mask whose category is one of the labels says both.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.forms.masks import polygon_mask
from clients.forms.names import key_in
from clients.forms.rle import coco_counts, from_coco_counts, unpacked
from clients.forms.said import FOREGROUND, Said
from clients.forms.tasks import Task, Tasks
from clients.words import read_mask_of
from common.errors import InputError

Mask = NDArray[np.uint8]


def to_coco(tasks: Tasks, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """The document.

    Args:
        tasks: The site's.
        sizes: Height and width of each image as it was written.
    """
    asked = tasks.asked
    classes = asked.classes or (FOREGROUND,)
    names = [(name, "label") for name in asked.labels]
    names += [(name, "outline") for name in classes] if asked.outlines else []
    numbers = {pair: number for number, pair in enumerate(names, start=1)}
    annotations: list[dict[str, Any]] = []

    def add(task: Task, pair: tuple[str, str], mask: Mask | None, size: tuple[int, int],
            word: Any) -> None:  # fmt: skip
        height, width = size
        segmentation: Any = [] if mask is None else {
            "counts": coco_counts(mask), "size": [height, width]
        }  # fmt: skip
        annotations.append({
            "id": len(annotations) + 1, "image_id": task.place, "category_id": numbers[pair],
            "bbox": [0, 0, width, height] if mask is None else _box(mask),
            "area": width * height if mask is None else int(mask.sum()),
            "segmentation": segmentation, "iscrowd": 0,
            "attributes": {"reader": word.reader, "time": word.time},
        })  # fmt: skip

    for task, size in zip(tasks.tasks, sizes, strict=True):
        for label in task.labels.values():
            add(task, (label.label, "label"), None, size, label)
        for outline in task.outlines.values():
            plane = read_mask_of(tasks.site.folder, outline.outline, len(asked.classes))
            for number, name in enumerate(classes, start=1):
                add(task, (name, "outline"), (plane == number).astype(np.uint8), size, outline)
    return {
        "info": {"description": f"{asked.study}, {tasks.site.name}", "version": "1"},
        "images": [
            {"id": task.place, "file_name": f"{task.name}.png", "height": size[0],
             "width": size[1], "reason": task.reason}
            for task, size in zip(tasks.tasks, sizes, strict=True)
        ],
        "categories": [
            {"id": number, "name": name, "supercategory": kind}
            for (name, kind), number in numbers.items()
        ],
        "annotations": annotations,
    }  # fmt: skip


def _box(mask_HW: Mask) -> list[int]:
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    if not len(rows):
        return [0, 0, 0, 0]
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def from_coco(document: Any, tasks: Tasks, where: str, reader: str, time: str) -> list[Said]:
    """What a COCO document says.

    Args:
        document: Its JSON.
        tasks: The site's.
        where: The file, for messages.
        reader: Who spoke where an annotation does not say.
        time: When, where it does not say.

    Raises:
        InputError: With everything in it that is not understood.
    """
    try:
        images = {image["id"]: image for image in document["images"]}
        categories = {
            one["id"]: (str(one["name"]), str(one.get("supercategory", "")))
            for one in document["categories"]
        }
        annotations = list(document["annotations"])
        date = str(document.get("info", {}).get("date_created", ""))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: is no COCO document (it lacks {error})") from None
    reading = _Reading(tasks, where, reader, time if not _is_time(date) else date)
    for annotation in annotations:
        reading.take(annotation, images, categories)
    if reading.problems:
        raise InputError(reading.problems)
    return list(reading.words())


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


class _Reading:
    """Puts the annotations of one reader on one image together."""

    def __init__(self, tasks: Tasks, where: str, reader: str, time: str) -> None:
        self.tasks, self.where, self.reader, self.time = tasks, where, reader, time
        self.keys = tasks.keys
        self.problems: list[str] = []
        self.labels: list[Said] = []
        self.masks: dict[tuple[str, str], tuple[Task, Mask, str, bool, str]] = {}

    def take(
        self, annotation: Any, images: dict[Any, Any], categories: dict[Any, tuple[str, str]]
    ) -> None:
        try:
            where = f"{self.where}: annotation {annotation['id']}"
            image = images[annotation["image_id"]]
            name, kind = categories[annotation["category_id"]]
            file_name = str(image["file_name"])
            attributes = annotation.get("attributes") or {}
            reader = str(attributes.get("reader") or annotation.get("reader") or self.reader)
            time = str(attributes.get("time") or annotation.get("time") or "")
            segmentation = annotation.get("segmentation") or []
        except (KeyError, TypeError, AttributeError) as error:
            self.problems.append(f"{self.where}: an annotation lacks {error}")
            return
        task = self.keys.get(key_in(file_name))
        if task is None:
            self.problems.append(f"{where}: {unknown(file_name)}")
            return
        asked = self.tasks.asked
        classes = asked.classes or (FOREGROUND,)
        outlined = name in classes and kind != "label"
        if not outlined and name not in asked.labels:
            known = (*asked.labels, *(classes if asked.outlines else ()))
            self.problems.append(f"{where}: the category {name!r} is none of {', '.join(known)}")
            return
        if not outlined:
            said = Said(
                where, task.row.id, name, reader, time or self.time, task.image_sha256,
                dated=bool(time),
            )  # fmt: skip
            self.labels.append(said)
            if not segmentation or asked.classes or not asked.outlines:
                return
        try:
            mask = _mask(segmentation, lambda: self.tasks.size(task))
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
            return
        value = classes.index(name) + 1 if outlined else 1
        key = task.row.id, reader
        before = self.masks.get(key)
        plane = before[1] if before else np.zeros(mask.shape, np.uint8)
        plane[mask > 0] = value
        self.masks[key] = (task, plane, time or self.time, bool(time), where)

    def words(self) -> Iterator[Said]:
        yield from self.labels
        for (id_, reader), (task, plane, time, dated, where) in self.masks.items():
            yield Said(where, id_, "", reader, time, task.image_sha256, plane, dated)


def unknown(name: str) -> str:
    """What is said of an image that cannot be placed."""
    return (
        f"the image {name!r} is none that was exported from here: nobody selected it, it has "
        "changed since, or it was renamed"
    )


def check_size(drawn: tuple[int, int], image: tuple[int, int]) -> None:
    """Raise ValueError where an outline's height and width are not its image's."""
    if drawn != image:
        raise ValueError(
            f"the outline is {drawn[1]} x {drawn[0]} pixels, its image {image[1]} x {image[0]}"
        )


def _mask(segmentation: Any, size: Callable[[], tuple[int, int]]) -> Mask:
    """The mask of polygons, or of run lengths.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(segmentation, dict):
        try:
            height, width = (int(side) for side in segmentation["size"])
            counts = segmentation["counts"]
            plain = unpacked(counts) if isinstance(counts, str) else [int(c) for c in counts]
        except (KeyError, TypeError) as error:
            raise ValueError(f"its run lengths lack {error}") from None
        check_size((height, width), size())  # before anything of that size is made
        return from_coco_counts(plain, height, width)
    height, width = size()
    plane = np.zeros((height, width), np.uint8)
    try:
        for ring in segmentation:
            numbers = [float(number) for number in ring]
            plane |= polygon_mask(
                list(zip(numbers[::2], numbers[1::2], strict=True)), height, width
            )
    except (TypeError, ValueError):
        raise ValueError("its segmentation is neither polygons nor run lengths") from None
    return plane
