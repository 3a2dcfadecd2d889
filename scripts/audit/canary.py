"""Canaries: a site's images, masks and names that occur nowhere else, so that a copy is a proof.

Every pixel is drawn at random. So nothing that a network learns looks like them by chance, they
cannot be compressed, and how improbable a false alarm is can be counted (`scripts.audit.search`).
"""

import csv
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clients.data.preprocess import square_image, square_mask

SYLLABLES = ("vax", "qor", "zim", "wyl", "dju", "kex", "pru", "nov", "thi", "gra", "lum", "fyn")
COLUMNS = ("id", "image", "mask", "label", "patient", "video", "frame", "synthetic")


@dataclass
class Canaries:
    """What must not be found.

    Attributes:
        pictures: (name, (H, W) uint8) of each image, as on the disk and as training sees it.
        masks: The same of masks, 0 or 1.
        files: (name, bytes) of each picture's file.
        texts: (name, text): patients, ids, file names, folders, labels.
    """

    pictures: list[tuple[str, NDArray[np.uint8]]] = field(default_factory=list)
    masks: list[tuple[str, NDArray[np.uint8]]] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: "Canaries") -> None:
        """Take in another site's."""
        self.pictures += other.pictures
        self.masks += other.masks
        self.files += other.files
        self.texts += other.texts


def write_site(
    folder: Path,
    site: str,
    *,
    seen: int,
    patients: int = 20,
    frames: int = 2,
    side: int = 64,
    seed: int = 0,
) -> Canaries:
    """Write one site's folder (index.csv, images, masks), as `sonofed data check` wants it.

    Args:
        folder: Where; made if it is not there.
        site: Its name, part of what is drawn.
        seen: Side in pixels at which the study trains.
        patients: How many.
        frames: Images of each.
        side: Of the pictures on the disk.
        seed: Of everything drawn.

    Returns:
        What was written, to search for.
    """
    digest = hashlib.sha256(f"{site} {seed}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    made = Canaries()
    rows = []
    label = f"label-{_word(rng, 4)}"
    made.texts.append((f"{site}: label", label))
    made.texts.append((f"{site}: folder", str(folder)))
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(patients):
        surname, given = _word(rng, 4).capitalize(), _word(rng, 3).capitalize()
        patient = f"{surname}^{given}^{rng.integers(10**11, 10**12)}"
        made.texts += [(f"{site}: patient", patient), (f"{site}: surname", surname)]
        for frame in range(frames):
            stem = f"{surname}_{given}_{rng.integers(10**9, 10**10)}_{frame}"
            what = f"{site}: image {number}.{frame}"
            picture = rng.integers(0, 256, (side, side), dtype=np.uint8)
            mask = rng.integers(0, 2, (side, side), dtype=np.uint8)
            path = folder / "images" / f"{stem}.png"
            Image.fromarray(picture).save(path)
            Image.fromarray(mask * np.uint8(255)).save(folder / "masks" / f"{stem}.png")
            made.pictures += [
                (what, picture),
                (f"{what}, as trained on", square_image(picture, seen)),
            ]
            mask_name = what.replace("image", "mask")
            made.masks += [
                (mask_name, mask),
                (f"{mask_name}, as trained on", square_mask(mask * np.uint8(255), seen, 0)),
            ]
            made.files.append((f"{what}, its file", path.read_bytes()))
            made.texts += [(f"{site}: id", stem), (f"{site}: file name", f"{stem}.png")]
            rows.append(
                (stem, f"images/{stem}.png", f"masks/{stem}.png", label, patient,
                 f"video-{surname}-{number}", frame, "canary")
            )  # fmt: skip
    with (folder / "index.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return made


def _word(rng: np.random.Generator, syllables: int) -> str:
    return "".join(SYLLABLES[place] for place in rng.integers(0, len(SYLLABLES), syllables))
