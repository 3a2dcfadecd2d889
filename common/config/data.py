"""What a study says about a site's images: where they lie, which of them count, how they split."""

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MANIFEST_COLUMNS = (
    "id",
    "image",
    "mask",
    "label",
    "patient",
    "video",
    "frame",
    "device",
    "group",
    "split",
)
"""The columns of a manifest `index.csv`; all but `id` and `image` are optional."""

Patterns = str | Annotated[tuple[str, ...], Field(min_length=1)]
"""One shell pattern (`*`, `?`, `[ab]`), or several of which any may match."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?`, or the known words where none is near."""
    words = list(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; there are {', '.join(words)}" if words else ""


class DataSpec(BaseModel):
    """One site's part of one manifest folder.

    Patterns are matched against the text of the file's own columns, case and all, as
    `fnmatch.fnmatchcase` does. A name that the file does not have is looked up in `columns`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field(
        min_length=1,
        description="Folder that holds index.csv; relative to the data root, or absolute.",
    )
    columns: dict[str, str] = Field(
        default={},
        description="Manifest name -> the file's own column, e.g. { group = 'split_hint' }.",
    )
    extract: dict[str, str] = Field(
        default={},
        description="Manifest name -> regular expression: the part of the cell that it finds is "
        "the value, the whole cell where it finds none. With columns = { patient = 'video' }, "
        "extract = { patient = 'set[0-9]+' } takes the patient out of the name of the video.",
    )
    where: dict[str, Patterns] = Field(
        default={},
        description="Keep a row only if EVERY column named here matches one of its patterns.",
    )
    drop: dict[str, Patterns] = Field(
        default={},
        description="Leave out a row if ANY column named here matches one of its patterns.",
    )
    test: dict[str, Patterns] = Field(
        default={},
        description="A row is a test row if EVERY column named here matches; it replaces the "
        "drawn test part.",
    )
    reader: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="Own reader 'package.module:name', a callable (Path, frame | None) -> 2-D "
        "grey array (uint8, uint16, or float in 0..1). Default: PNG, JPEG, TIFF, BMP; DICOM "
        "ultrasound, cut to its regions; MP4, AVI and other video, by the row's frame.",
    )

    @field_validator("columns", "extract")
    @classmethod
    def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
        wrong = [
            f"'{name}' is no manifest column{nearest(name, MANIFEST_COLUMNS)}"
            for name in value
            if name not in MANIFEST_COLUMNS
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return value

    @field_validator("extract")
    @classmethod
    def _sound_expressions(cls, value: dict[str, str]) -> dict[str, str]:
        for name, expression in value.items():
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(
                    f"{name}: '{expression}' is no regular expression: {error}"
                ) from None
        return value

    def __hash__(self) -> int:
        """By content, so that what was read for a spec can be remembered."""
        return hash(self.model_dump_json())


class SplitConfig(BaseModel):
    """How a site's images part into train, val and test where the manifest does not say.

    By patient, else by group (near duplicates, or one video), else by image (method.md, Images).
    Fractions are of the site's images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, description="Seed of the draw; the same for every arm.")
    val: float = Field(default=0.16, ge=0, lt=1, description="Share of the images for validation.")
    test: float = Field(default=0.16, ge=0, lt=1, description="Share of the images for the test.")

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(
                f"val {self.val} and test {self.test} together leave nothing to train on"
            )
        return self
