"""The images that a study selected, with what is said of them: what every other tool gets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clients.annotations import all_worklists
from clients.asked import Asked
from clients.consensus import words_of
from clients.data.cache import Digests
from clients.data.dicom import is_dicom, open_dicom
from clients.data.manifest import Row, read_manifest
from clients.data.preprocess import to_grey8
from clients.data.readers import (
    Grey,
    UnreadableError,
    load_reader,
    picture_size,
    read_image,
)
from clients.forms.names import name_of, wanted_images
from clients.settings import SiteSettings
from clients.words import Label, Outline, read_labels, read_outlines
from common.errors import InputError


@dataclass(frozen=True)
class Task:
    """One image for another tool.

    Attributes:
        place: From 1, the most wanted first.
        row: Of the manifest.
        image_sha256: Of its file.
        reason: Why it was selected.
        labels: Reader to label.
        outlines: Reader to outline.
    """

    place: int
    row: Row
    image_sha256: str
    reason: str
    labels: Mapping[str, Label]
    outlines: Mapping[str, Outline]

    @property
    def name(self) -> str:
        """The name under which it goes out."""
        return name_of(self.place, self.image_sha256, self.row.frame)

    @property
    def readers(self) -> list[str]:
        """Who has spoken."""
        return list(dict.fromkeys((*self.labels, *self.outlines)))


@dataclass(frozen=True)
class Tasks:
    """All of a site's.

    Attributes:
        site: The site.
        asked: What the study asks.
        tasks: The most wanted first.
    """

    site: SiteSettings
    asked: Asked
    tasks: tuple[Task, ...]

    @property
    def keys(self) -> dict[str, Task]:
        """Key of a name to the image."""
        return {task.name.partition("-")[2]: task for task in self.tasks}

    def size(self, task: Task) -> tuple[int, int]:
        """Height and width of an image as it goes out."""
        row = task.row
        try:
            return picture_size(load_reader(self.site.data.reader), row.image, row.frame)
        except UnreadableError as error:
            raise InputError(f"{row.image}: {error}") from None

    def write_picture(self, task: Task, path: Path) -> tuple[int, int]:
        """Write an image as the network sees it, as 8-bit grey PNG; height and width come back."""
        grey = self._grey(task)
        Image.fromarray(np.rint(to_grey8(grey)).astype(np.uint8)).save(path)
        height, width = grey.shape
        return height, width

    def write_volume(self, task: Task, path: Path) -> tuple[int, int]:
        """Write an image as NRRD, in its own depth and in the geometry of its `.seg.nrrd`."""
        import nrrd

        grey = self._grey(task)
        down, across = self.spacing_mm(task) or (1.0, 1.0)
        header = {
            "space": "left-posterior-superior",
            "kinds": ["domain", "domain", "domain"],
            "space directions": np.diag([across, down, 1.0]),
            "space origin": np.zeros(3),
            "encoding": "gzip",
        }
        nrrd.write(str(path), np.ascontiguousarray(grey.T[..., None]), header)
        height, width = grey.shape
        return height, width

    def spacing_mm(self, task: Task) -> tuple[float, float] | None:
        """Millimetres a pixel (down, across), where a DICOM says so."""
        path = task.row.image
        return open_dicom(path).box.spacing_mm if is_dicom(path) else None

    def _grey(self, task: Task) -> Grey:
        try:
            return read_image(load_reader(self.site.data.reader), task.row.image, task.row.frame)
        except UnreadableError as error:
            raise InputError(f"{task.row.image}: {error}") from None


def read_tasks(site: SiteSettings, asked: Asked) -> Tasks:
    """What was selected at a site, and all that stands of it.

    Raises:
        InputError: If the manifest lacks a selected image.
    """
    lists = all_worklists(site.folder)
    rows = {row.id: row for row in read_manifest(site.data_folder, site.data)}
    wanted, digests = wanted_images(lists), Digests(site.cache)
    lost = [id_ for id_ in wanted if id_ not in rows]
    if lost:
        raise InputError([f"{site.data_folder}: no longer names the image {id_!r}" for id_ in lost])
    reasons = {}
    for choice in sorted((c for of in lists.values() for c in of), key=lambda c: -c.rank):
        reasons[choice.id] = choice.reason
    labels = words_of(read_labels(site.folder))
    outlines = words_of(read_outlines(site.folder))
    return Tasks(
        site,
        asked,
        tuple(
            Task(
                place, rows[id_], digests.of(rows[id_].image), reasons[id_], labels.get(id_, {}),
                outlines.get(id_, {}),
            )
            for place, id_ in enumerate(wanted, start=1)
        ),
    )  # fmt: skip
