"""DICOM ultrasound out of an archive: frames as PNG, and no name of anybody.

Only what lies inside the ultrasound regions is written. Patient and study become keyed hashes,
whose key stays at the site: with it the same patient has the same pseudonym in every import, and
without it nobody can try out names. Of the header the probe, the spacing and the frame time go on.
"""

import csv
import hmac
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from clients.data.cache import Progress
from clients.data.dicom import Clip, is_dicom, open_dicom
from clients.data.manifest import MANIFEST
from clients.data.unreadable import UnreadableError
from clients.data.video import luma
from common.config.data import MANIFEST_COLUMNS
from common.errors import InputError

KEY_BYTES = 32
DIGITS = 16
"""Hex digits of a pseudonym: of a million patients, one pair in 37 million imports collides."""

FURTHER = ("study", "spacing_mm", "frame_time_ms")


@dataclass(frozen=True)
class Imported:
    """Counts of an import.

    Attributes:
        frames: Pictures written.
        clips: Files they are of.
        patients: Pseudonyms given.
        unnamed: Clips without a patient's number, for which the study stands.
        others: Files that are no DICOM and were left alone.
    """

    frames: int
    clips: int
    patients: int
    unnamed: int
    others: int


def read_key(path: Path) -> bytes:
    """The site's key; made, for its owner's eyes only, where there is none yet.

    Raises:
        InputError: If it cannot be read or made, or is no key.
    """
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return _new_key(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not readable as a key ({error})") from None
    if len(key) < KEY_BYTES:
        raise InputError(f"{path}: holds {len(key)} bytes; a key has {KEY_BYTES}")
    return key


def _new_key(path: Path) -> bytes:
    key = secrets.token_bytes(KEY_BYTES)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(key.hex() + "\n")
    except OSError as error:
        raise InputError(f"{path}: the key cannot be written there ({error.strerror})") from None
    return key


def pseudonym(key: bytes, kind: str, *parts: str) -> str:
    """HMAC-SHA256 over what it is of and its parts, shortened: `patient-0123456789abcdef`."""
    text = "\x1f".join((kind, *(part.strip() for part in parts)))
    digest = hmac.new(key, text.encode(), "sha256").hexdigest()
    return f"{kind}-{digest[:DIGITS]}"


def import_dicom(
    source: Path,
    target: Path,
    key_file: Path,
    *,
    every: int = 1,
    whole: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Write `target/index.csv` and `target/images/`; all of it or nothing.

    Args:
        source: Folder with DICOM files, at any depth; other files are left alone.
        target: New or empty folder.
        key_file: The key; made where it is missing. It may not lie in the target.
        every: Take every so many-th frame of a clip; `frame` keeps the true number.
        whole: Take whole frames where the header names no region. What is burned in stays in.
        progress: Called with (done, all) after each file.

    Raises:
        InputError: With every file that cannot be taken, or if the target is not empty.
    """
    _check_places(source, target, key_file)
    every_file = sorted(path for path in source.rglob("*") if path.is_file())
    paths = [path for path in every_file if is_dicom(path) and path.name.upper() != "DICOMDIR"]
    if not paths:
        raise InputError(f"{source}: holds no DICOM file")
    key = read_key(key_file)
    part = target.with_name(f".{target.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    try:
        rows, problems = _write(paths, part, key, every, whole, progress)
        if problems:
            raise InputError(problems)
        if target.exists():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Imported(
        frames=len(rows),
        clips=len({row["video"] for row in rows}),
        patients=len({row["patient"] for row in rows}),
        unnamed=len({row["video"] for row in rows if row["patient"].startswith("study")}),
        others=len(every_file) - len(paths),
    )


def _check_places(source: Path, target: Path, key_file: Path) -> None:
    problems = []
    if not source.is_dir():
        problems.append(f"{source}: is no folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        problems.append(f"{target}: is not an empty folder; name a new one")
    if key_file.resolve().is_relative_to(target.resolve()):
        problems.append(f"{key_file}: would lie in the folder that may be handed on; put it aside")
    if problems:
        raise InputError(problems)


def _write(
    paths: list[Path],
    part: Path,
    key: bytes,
    every: int,
    whole: bool,
    progress: Progress | None,
) -> tuple[list[dict[str, str]], list[str]]:
    (part / "images").mkdir(parents=True)
    rows: list[dict[str, str]] = []
    problems: list[str] = []
    seen: dict[str, Path] = {}
    for done, path in enumerate(paths, start=1):
        try:
            clip = open_dicom(path)
            video = pseudonym(key, "video", clip.names["SOPInstanceUID"])
            other = seen.setdefault(video, path)
            if other != path:
                raise UnreadableError(f"is the same instance as {other}")
            if not clip.regions and not whole:
                raise UnreadableError(
                    "names no ultrasound region, so burnt-in names cannot be told from the image "
                    "(--whole-frames takes it as it is)"
                )
            rows += _frames(clip, part, video, key, every)
        except UnreadableError as error:
            problems.append(f"{path}: {error}")
        if progress is not None:
            progress(done, len(paths))
    columns = [*MANIFEST_COLUMNS, *FURTHER]
    with (part / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows, problems


def _frames(clip: Clip, part: Path, video: str, key: bytes, every: int) -> Iterator[dict[str, str]]:
    names = clip.names
    study = pseudonym(key, "study", names["StudyInstanceUID"])
    if not names["PatientID"].strip() and not names["StudyInstanceUID"].strip():
        raise UnreadableError("names neither a patient nor a study, so it belongs to nobody")
    patient = (
        pseudonym(key, "patient", names["IssuerOfPatientID"], names["PatientID"])
        if names["PatientID"].strip()
        else study
    )
    spacing = clip.box.spacing_mm
    for number in range(0, clip.frames, every):
        grey = luma(clip.shown(number))
        name = f"{video}-{number:05d}"
        # Pillow writes what it is given and nothing else: no header comes along.
        Image.fromarray(grey).save(part / "images" / f"{name}.png")
        yield {
            "id": name,
            "image": f"images/{name}.png",
            "patient": patient,
            "video": video,
            "frame": str(number),
            "device": clip.probe,
            "study": study,
            "spacing_mm": f"{spacing[0]:.6g} {spacing[1]:.6g}" if spacing else "",
            "frame_time_ms": f"{clip.frame_time_ms:.6g}" if clip.frame_time_ms else "",
        }
