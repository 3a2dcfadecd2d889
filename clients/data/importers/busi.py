"""BUSI (Al-Dhabyani 2020): `benign/benign (1).png`, `benign (1)_mask.png`, `_mask_1.png`, ..."""

import re
from pathlib import Path

import numpy as np

from clients.data.duplicates import BITS, near_pairs, perceptual_hash
from clients.data.importers.layout import Found, Item, folder_named, with_values
from clients.data.preprocess import to_grey8
from clients.data.readers import UnreadableError, read_image, read_pillow

LABELS = ("benign", "malignant", "normal")
NAME = re.compile(r"(?P<label>[a-z]+) \((?P<number>\d+)\)(?P<mask>_mask(_\d+)?)?\.png", re.I)


def read_busi(source: Path) -> Found:
    """Finds the images and their masks; a lesion's several masks become one.

    BUSI names no patients and holds near duplicates, some with contradicting labels. Near
    duplicates get a common `group`, so that a split keeps them together, and
    `note = near_duplicate_with_other_label` where they contradict each other, to be dropped.

    Args:
        source: Folder with `benign`, `malignant`, `normal`, or one that holds
            `Dataset_BUSI_with_GT`.
    """
    found = Found()
    root = source / "Dataset_BUSI_with_GT"
    root = root if root.is_dir() else source
    for label in LABELS:
        _read_label(folder_named(root, label), label, found)
    if not found.problems:
        _group(found)
    return found


def _read_label(folder: Path, label: str, found: Found) -> None:
    if not folder.is_dir():
        found.problems.append(f"{folder}: there is no such folder")
        return
    images: dict[int, Path] = {}
    masks: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        match = NAME.fullmatch(path.name)
        if match is None or match["label"].lower() != label:
            if not path.name.startswith(".") and path.name != "Thumbs.db":
                found.problems.append(f"{path}: is neither '{label} (N).png' nor its mask")
        elif match["mask"]:
            masks.setdefault(int(match["number"]), []).append(path)
        else:
            images[int(match["number"])] = path
    for number in sorted(masks.keys() - images.keys()):
        found.problems.append(f"{masks[number][0]}: is a mask without its image")
    for number, image in sorted(images.items()):
        if number not in masks:
            found.problems.append(f"{image}: has no mask '{image.stem}_mask.png'")
        values = {"id": f"{label}_{number:04d}", "label": label, "group": "", "note": ""}
        found.items.append(Item(image, values, tuple(masks.get(number, []))))


def _group(found: Found) -> None:
    """Gives near duplicates a common group, in place."""
    items = found.items
    hashes = np.zeros((len(items), BITS), dtype=bool)
    for index, item in enumerate(items):
        try:
            hashes[index] = perceptual_hash(to_grey8(read_image(read_pillow, item.image, None)))
        except UnreadableError as error:
            found.problems.append(f"{item.image}: {error}")
    first = list(range(len(items)))
    contradicting: set[int] = set()
    for a, b in near_pairs(hashes):
        low, high = sorted((first[a], first[b]))
        first = [low if index == high else index for index in first]
        if items[a].values["label"] != items[b].values["label"]:
            contradicting |= {a, b}
    names = {root: f"dupgrp_{items[root].values['id']}" for root in first if first.count(root) > 1}
    for index, item in enumerate(items):
        note = "near_duplicate_with_other_label" if index in contradicting else ""
        items[index] = with_values(item, group=names.get(first[index], ""), note=note)
