"""What a consortium's center has told this site of itself: kept beside the site's keys."""

import os
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from clients.site_file import SiteFile
from common.errors import InputError
from common.joining import Admission, Invitation

CENTER = "center.json"


class Center(BaseModel):
    """The last that it said, in an invitation or an admission.

    Attributes:
        consortium: Its name.
        address: Host and port of its front.
        study: SHA-256 of the study that is planned; empty where none was named.
        versions: Of what must agree on both sides.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    consortium: str = ""
    address: str = ""
    study: str = ""
    versions: dict[str, str] = {}

    @classmethod
    def of(cls, told: Invitation | Admission, before: "Center") -> Self:
        """What it says now; an admission names no study, so the invitation's stays."""
        study = told.study if isinstance(told, Invitation) and told.study else before.study
        return cls(
            consortium=told.consortium, address=told.address, study=study,
            versions=told.versions or before.versions,
        )  # fmt: skip


def read_center(keys: Path) -> Center:
    """What is kept in the folder of the keys; an empty one where nothing is.

    Raises:
        InputError: If the file is damaged.
    """
    path = keys / CENTER
    try:
        return Center.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Center()
    except (OSError, ValidationError):
        raise InputError(f"{path}: is damaged; join anew with the last invitation") from None


def write_center(keys: Path, center: Center) -> None:
    """Keep it."""
    path = keys / CENTER
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(center.model_dump_json(indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def center_of(site: SiteFile) -> Center:
    """What the center has told the site whose file this is; see `read_center`."""
    return read_center(site.upstream.key.parent)
