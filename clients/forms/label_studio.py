"""Label Studio's JSON: one task an image, with choices for labels, brush or polygons for outlines.

Readers and times go in the notes of a region (`meta.text`), which Label Studio keeps; where a
region came without, they are those of its annotation.
"""

import re
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from clients.forms.coco import check_size, unknown
from clients.forms.masks import polygon_mask
from clients.forms.names import key_in
from clients.forms.rle import brush_runs, from_brush_runs
from clients.forms.said import FOREGROUND, Said
from clients.forms.tasks import Task, Tasks
from clients.predict.writing import COLOURS
from clients.words import read_mask_of
from common.errors import InputError

Mask = NDArray[np.uint8]
NOTE = re.compile(r"(reader|time): (.*)")


def interface(tasks: Tasks) -> str:
    """The labelling interface to be pasted into the project's settings."""
    asked = tasks.asked
    choices = "\n".join(
        f"    <Choice value={quoteattr(label)} hotkey='{number}'/>"
        for number, label in enumerate(asked.labels, start=1)
    )
    parts = [
        "<View>", '  <Header value="$reason"/>',
        '  <Image name="image" value="$image" zoom="true" zoomControl="true" '
        'brightnessControl="true" contrastControl="true"/>',
        '  <Choices name="label" toName="image" choice="single" showInLine="true">', choices,
        "  </Choices>",
    ]  # fmt: skip
    if asked.outlines:
        parts.append('  <BrushLabels name="outline" toName="image">')
        for place, name in enumerate(asked.classes or (FOREGROUND,)):
            red, green, blue = COLOURS[place % len(COLOURS)]
            colour = f"#{red:02x}{green:02x}{blue:02x}"
            parts.append(f"    <Label value={quoteattr(name)} background='{colour}'/>")
        parts.append("  </BrushLabels>")
    return "\n".join([*parts, "</View>"]) + "\n"


def to_label_studio(tasks: Tasks, sizes: Sequence[tuple[int, int]], prefix: str) -> list[Any]:
    """The tasks.

    Args:
        tasks: The site's.
        sizes: Height and width of each image as it was written.
        prefix: What stands before an image's name in its address.
    """
    return [
        {
            "data": {
                "image": f"{prefix}{task.name}.png", "reason": task.reason, "rank": task.place,
            },
            "annotations": [
                {"result": _result(tasks, task, size, reader)} for reader in task.readers
            ],
        }
        for task, size in zip(tasks.tasks, sizes, strict=True)
    ]  # fmt: skip


def _result(tasks: Tasks, task: Task, size: tuple[int, int], reader: str) -> list[Any]:
    height, width = size
    common = {
        "to_name": "image", "image_rotation": 0, "original_height": height, "original_width": width,
    }  # fmt: skip
    result: list[Any] = []
    label = task.labels.get(reader)
    if label is not None:
        result.append({
            **common, "id": f"{task.place}-label", "from_name": "label", "type": "choices",
            "value": {"choices": [label.label]}, "meta": _note(reader, label.time),
        })  # fmt: skip
    outline = task.outlines.get(reader)
    if outline is not None:
        classes = tasks.asked.classes
        plane = read_mask_of(tasks.site.folder, outline.outline, len(classes))
        for number, name in enumerate(classes or (FOREGROUND,), start=1):
            result.append({
                **common, "id": f"{task.place}-outline-{number}", "from_name": "outline",
                "type": "brushlabels", "meta": _note(reader, outline.time),
                "value": {
                    "format": "rle", "brushlabels": [name],
                    "rle": brush_runs((plane == number).astype(np.uint8)),
                },
            })  # fmt: skip
    return result


def _note(reader: str, time: str) -> dict[str, list[str]]:
    return {"text": [f"reader: {reader}", f"time: {time}"]}


def from_label_studio(
    document: Any, tasks: Tasks, where: str, reader: str, time: str
) -> list[Said]:
    """What an export of Label Studio (JSON, not JSON-MIN) says.

    Args:
        document: Its JSON.
        tasks: The site's.
        where: The file, for messages.
        reader: Who spoke where the file does not say.
        time: When, where it does not say.

    Raises:
        InputError: With everything in it that is not understood.
    """
    found: list[Said] = []
    problems: list[str] = []
    keys = tasks.keys
    for number, one in enumerate(document, start=1):
        place = f"{where}: task {number}"
        try:
            name = str(one["data"]["image"])
            annotations = list(one.get("annotations") or [])
            task = keys.get(key_in(name))
            if task is None:
                if annotations:
                    problems.append(f"{place}: {unknown(name)}")
                continue
            for annotation in annotations:
                if not annotation.get("was_cancelled"):
                    found += _words(tasks, task, annotation, place, reader, time)
        except (KeyError, TypeError, AttributeError) as error:
            problems.append(f"{place}: is no task of Label Studio (it lacks {error})")
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise InputError(problems)
    return found


def _words(
    tasks: Tasks, task: Task, annotation: Any, where: str, reader: str, time: str
) -> list[Said]:
    """What one annotation says: its label, and all its regions of a reader as one outline."""
    who = _completed_by(annotation) or reader
    when = str(annotation.get("updated_at") or annotation.get("created_at") or "")
    classes = tasks.asked.classes or (FOREGROUND,)
    found: list[Said] = []
    masks: dict[str, tuple[Mask, str]] = {}
    for region in annotation["result"]:
        notes = dict(_notes(region))
        said_by = notes.get("reader", who)
        at = notes.get("time", when)
        value = region["value"]
        if region["type"] == "choices":
            for label in value["choices"]:
                found.append(Said(
                    where, task.row.id, str(label), said_by, at or time, task.image_sha256,
                    dated=bool(at),
                ))  # fmt: skip
            continue
        names = value.get(region["type"]) or []
        if len(names) != 1 or names[0] not in classes:
            raise ValueError(f"the region's label {names} is none of {', '.join(classes)}")
        height, width = int(region["original_height"]), int(region["original_width"])
        check_size((height, width), tasks.size(task))
        if region["type"] == "brushlabels":
            part = from_brush_runs(value["rle"], height, width)
        elif region["type"] == "polygonlabels":
            points = [(x * width / 100, y * height / 100) for x, y in value["points"]]
            part = polygon_mask(points, height, width)
        else:
            raise ValueError(f"a region of type {region['type']!r} is no outline")
        plane, _ = masks.get(said_by, (np.zeros((height, width), np.uint8), ""))
        plane[part > 0] = classes.index(names[0]) + 1
        masks[said_by] = plane, at
    found += [
        Said(where, task.row.id, "", by, at or time, task.image_sha256, plane, bool(at))
        for by, (plane, at) in masks.items()
    ]
    return found


def _notes(region: Any) -> list[tuple[str, str]]:
    texts = (region.get("meta") or {}).get("text") or []
    lines = texts if isinstance(texts, list) else str(texts).splitlines()
    matches = (NOTE.fullmatch(str(line).strip()) for line in lines)
    return [(match[1], match[2]) for match in matches if match]


def _completed_by(annotation: Any) -> str:
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        return str(who.get("email") or who.get("id") or "")
    return "" if who is None else f"user {who}"
