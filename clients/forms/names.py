"""Names under which images go to other tools, and by which they are known again when they return.

A name has the image's rank, for people, and 20 hexadecimal digits of a SHA-256 over its file and
frame. Whatever a tool does to the rest of the name, an image that has changed or that nobody
selected is found out; and no name tells of a patient.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence

from clients.annotations import Choice

DIGITS = 20
KEY = re.compile(rf"(?<![0-9a-f])[0-9a-f]{{{DIGITS}}}(?![0-9a-f])")


def wanted_images(worklists: Mapping[tuple[str, str], Sequence[Choice]]) -> list[str]:
    """The images of all worklists, each once, by their best rank; of equal ranks by name."""
    best: dict[str, int] = {}
    for choices in worklists.values():
        for choice in choices:
            best[choice.id] = min(choice.rank, best.get(choice.id, choice.rank))
    return sorted(best, key=lambda id_: (best[id_], id_))


def key_of(image_sha256: str, frame: int | None) -> str:
    """The part of a name by which an image is known again."""
    text = f"{image_sha256} {'' if frame is None else frame}"
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def name_of(place: int, image_sha256: str, frame: int | None) -> str:
    """A name, without an ending."""
    return f"{place:04d}-{key_of(image_sha256, frame)}"


def key_in(name: str) -> str:
    """The key in a file's name or address; empty where there is none."""
    found = KEY.findall(name)
    return found[-1] if found else ""
