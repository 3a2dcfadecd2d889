"""What a study asks of a site's experts: kept in its folder, so that their tools know it."""

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from clients.tables import write_bytes
from common.config.study import Study
from common.errors import InputError

ASKED = "asked.json"


class Asked(BaseModel):
    """What the experts are to say.

    Attributes:
        study: Its name.
        labels: What an image can be.
        classes: Names of an outline's classes 1..; empty for binary outlines.
        outlines: Whether images are to be outlined too.
        synthetic: Whether they are simulated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    labels: tuple[str, ...]
    classes: tuple[str, ...] = ()
    outlines: bool = False
    synthetic: bool = False

    @classmethod
    def of(cls, study: Study) -> Self:
        """What a study asks."""
        return cls(
            study=study.name,
            labels=study.labels,
            classes=study.classes,
            outlines="ensemble_selected" in study.arms,
            synthetic=study.synthetic,
        )


def keep_asked(site_folder: Path, study: Study) -> None:
    """Write it beside the worklists, if it is not there yet."""
    path = site_folder / "selection" / ASKED
    content = (json.dumps(Asked.of(study).model_dump(), indent=1) + "\n").encode()
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)


def read_asked(site_folder: Path) -> Asked:
    """What the study asks of this site.

    Raises:
        InputError: If nothing has been asked yet.
    """
    path = site_folder / "selection" / ASKED
    try:
        return Asked.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{site_folder}: no study has selected an image here yet, so there is nothing to "
            "annotate"
        ) from None
    except ValidationError:
        raise InputError(f"{path}: is not as it was written") from None
