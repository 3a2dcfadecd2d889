"""What all importers share: items of a published layout become a manifest with its files."""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from clients.data.cache import Progress
from clients.data.manifest import MANIFEST
from clients.data.preprocess import binary_mask
from clients.data.readers import UnreadableError, check_size, picture_size, read_mask, read_pillow
from common.config.data import MANIFEST_COLUMNS
from common.errors import InputError


@dataclass(frozen=True)
class Item:
    """One image of a published layout.

    Attributes:
        image: Its file.
        values: Manifest columns (without `image` and `mask`) and further ones; `id` is there.
        masks: Its mask files; several become one.
    """

    image: Path
    values: Mapping[str, str]
    masks: tuple[Path, ...] = ()


@dataclass
class Found:
    """What a layout holds: its items, and a sentence for each fault."""

    items: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Imported:
    """Counts of an import.

    Attributes:
        images: Rows written.
        masks: Images with a mask.
        merged: Masks made of several files.
        labels: Images per label.
        grouped: Images in a group of near duplicates.
    """

    images: int
    masks: int
    merged: int
    labels: Mapping[str, int]
    grouped: int


def import_items(
    read: Callable[[Path], Found],
    source: Path,
    target: Path,
    *,
    link: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Writes `target/index.csv`, `images/` and `masks/`; all of it or nothing.

    Args:
        read: The layout, e.g. `read_busi`.
        source: Folder in the published layout.
        target: New or empty folder.
        link: Hard-link the files instead of copying them; merged masks are always written.
        progress: Called with (done, all) after each image.

    Raises:
        InputError: With every fault of the source, or if the target is not empty or not
            writable.
    """
    problems: list[str] = []
    if not source.is_dir():
        problems.append(f"{source}: is no folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        problems.append(f"{target}: is not an empty folder; name a new one")
    if problems:
        raise InputError(problems)
    found = read(source)
    problems += found.problems
    if not found.items and not problems:
        problems.append(f"{source}: holds no image of this layout")
    problems += _file_problems(found.items)
    if problems:
        raise InputError(problems)
    part = target.with_name(f".{target.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(found.items, part, link, progress)
        if target.exists():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        hint = "; leave out --link" if link else ""
        raise InputError(f"{target}: cannot be written ({error.strerror}){hint}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    items = found.items
    return Imported(
        images=len(items),
        masks=sum(bool(item.masks) for item in items),
        merged=sum(len(item.masks) > 1 for item in items),
        labels=Counter(item.values.get("label", "") for item in items),
        grouped=sum(bool(item.values.get("group")) for item in items),
    )


def _file_problems(items: Sequence[Item]) -> list[str]:
    """Looks at every file's header: readable, and masks as large as their image."""
    problems = []
    seen: dict[str, Path] = {}
    for item in items:
        other = seen.setdefault(item.values["id"], item.image)
        if other != item.image:
            problems.append(f"{item.image}: has the id '{item.values['id']}' as {other} has")
        size: tuple[int, int] | None = None
        for path in (item.image, *item.masks):
            try:
                if not path.stat().st_size:
                    raise UnreadableError("is empty (0 bytes)")
                found = picture_size(read_pillow, path, None)
                size = size or found
                check_size(found, size)
            except UnreadableError as error:
                problems.append(f"{path}: {error}")
    return problems


def _write(items: Sequence[Item], part: Path, link: bool, progress: Progress | None) -> None:
    for name in ("images", "masks") if any(item.masks for item in items) else ("images",):
        (part / name).mkdir(parents=True)
    further = list(dict.fromkeys(name for item in items for name in item.values))
    columns = [*MANIFEST_COLUMNS, *(name for name in further if name not in MANIFEST_COLUMNS)]
    rows = []
    for done, item in enumerate(items, start=1):
        stem = item.values["id"]
        image = f"images/{stem}{item.image.suffix.lower()}"
        _place(item.image, part / image, link)
        mask = ""
        if len(item.masks) == 1:
            mask = f"masks/{stem}{item.masks[0].suffix.lower()}"
            _place(item.masks[0], part / mask, link)
        elif item.masks:
            mask = f"masks/{stem}.png"
            _merge(item.masks, part / mask)
        rows.append({**item.values, "image": image, "mask": mask})
        if progress is not None:
            progress(done, len(items))
    with (part / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _place(source: Path, target: Path, link: bool) -> None:
    if link:
        os.link(source.resolve(), target)
    else:
        shutil.copyfile(source, target)


def _merge(masks: Sequence[Path], target: Path) -> None:
    """Writes the union of binary masks, 0/255."""
    try:
        planes = [binary_mask(read_mask(read_pillow, path, None, classes=0)) for path in masks]
    except UnreadableError as error:
        raise InputError(f"{masks[0]}: one of its {len(masks)} masks {error}") from None
    union = np.logical_or.reduce(planes)
    Image.fromarray(union.astype(np.uint8) * np.uint8(255)).save(target)


def read_csv(path: Path, required: Sequence[str], problems: list[str]) -> list[dict[str, str]]:
    """Rows of a published CSV; faults go to `problems`, and a row's number to key "#"."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
        return []
    lines = csv.reader(text.splitlines(keepends=True))
    header = [name.strip() for name in next(lines, [])]
    missing = [name for name in required if name not in header]
    problems += [
        f"{path}: the column '{name}' is missing; there are {', '.join(header) or 'none'}"
        for name in missing
    ]
    if missing:
        return []
    rows = []
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(header) and any(cells):
            problems.append(
                f"{path}: row {number}: has {len(cells)} cells, the header has {len(header)}"
            )
        elif any(cells):
            named = zip(header, (cell.strip() for cell in cells), strict=True)
            rows.append({**dict(named), "#": str(number)})
    if not rows and not problems:
        problems.append(f"{path}: has no rows")
    return rows


def folder_named(source: Path, name: str) -> Path:
    """The subfolder of that name whatever its case; the name as given if there is none."""
    for path in sorted(source.iterdir()):
        if path.is_dir() and path.name.lower() == name.lower():
            return path
    return source / name


def with_values(item: Item, **values: str) -> Item:
    """The item with some of its values replaced."""
    return replace(item, values={**item.values, **values})
