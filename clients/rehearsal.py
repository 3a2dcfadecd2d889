"""A rehearsal: the phantom in place of a site's own images, drawn here, in the study's folder."""

import csv
import os
from pathlib import Path

import numpy as np
from PIL import Image

from clients.data.manifest import MANIFEST
from clients.phantom.probes import PROBES
from clients.phantom.write import COLUMNS, generate
from clients.settings import SiteSettings
from common.config.data import DataSpec
from common.config.study import Study
from common.seeds import seed_of

PATIENTS, FRAMES, LARGEST = 60, 2, 128
"""Enough people that a policy's smallest count is met in validation and test; few small frames."""
FOLDER = "rehearsal"


def on_phantom(site: SiteSettings, study: Study) -> SiteSettings:
    """The settings that a rehearsal works with: nothing of the site's own data is opened.

    Args:
        site: At work on the study.
        study: A rehearsal.

    Returns:
        The settings with another data folder, another cache and no reader of the site's own.

    Raises:
        InputError: If the phantom cannot be written.
    """
    place = (site.folder / FOLDER).absolute()
    if not (place / MANIFEST).exists():
        _draw(place, site.name, study)
    return site.model_copy(update={"data": DataSpec(folder=str(place)), "cache": place / "cache"})


def _draw(place: Path, name: str, study: Study) -> None:
    """Draw the site's phantom, and give it the study's labels and classes."""
    number = list(study.sites).index(name)
    probe = list(PROBES)[number % len(PROBES)]
    drawn = generate(
        place / "phantom",
        anatomy="breast" if study.selection_arms else "wrist",
        probes=[probe],
        patients=PATIENTS,
        frames=FRAMES,
        side=min(LARGEST, max(32, study.model.image_size)),
        seed=seed_of("rehearsal", name) % 2**31,
    )[probe]
    with (drawn / MANIFEST).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    patients = list(dict.fromkeys(row["patient"] for row in rows))
    beside = place / f".{MANIFEST}.{os.getpid()}"
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            label = study.labels[patients.index(row["patient"]) % len(study.labels)]
            if study.classes:
                _cut_up(drawn / row["mask"], len(study.classes))
            paths = {
                kind: str((drawn / row[kind]).relative_to(place)) for kind in ("image", "mask")
            }
            writer.writerow({**row, **paths, "label": label})
    beside.replace(place / MANIFEST)


def _cut_up(mask: Path, classes: int) -> None:
    """Make a binary mask one of labels: its foreground cut into as many strips."""
    values = np.asarray(Image.open(mask))
    if values.max() <= classes:
        return  # a kill came after it was cut
    strips = 1 + np.arange(values.shape[1]) * classes // values.shape[1]
    Image.fromarray(((values > 127) * strips).astype(np.uint8)).save(mask)
