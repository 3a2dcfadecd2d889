"""What one site knows about itself: its name, its role, its folders."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from common.config.data import DataSpec
from common.config.selection import COHORT


class SiteSettings(BaseModel):
    """Settings of one site; they are made at the site and never leave it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="The site's name in the study.")
    role: Literal["source", "target"] = Field(
        description="A source trains on its masks; a target's masks only judge."
    )
    data: DataSpec = Field(description="Which rows of which manifest are this site's.")
    data_root: Path = Field(description="Folder that relative data folders start from.")
    folder: Path = Field(description="The site's own folder in the run; it stays at the site.")
    cache: Path = Field(description="Folder of the decoded image cache; may serve many studies.")
    weights: dict[Literal["diffusion", "text", "lpips"], Path] = Field(
        default={},
        description="Local folders with published weights that a study may ask for; no path of "
        "them crosses, and nothing is ever downloaded.",
    )
    min_cohort: int | None = Field(
        default=None,
        ge=0,
        description="Images that any number of the selection must stand for; the study's own "
        "`score.min_cohort` counts where it is larger. Unset: 5 in a consortium, else 0.",
    )
    policy: Path | None = Field(
        default=None,
        description="In a simulation: the hospital's own policy file, instead of one that lets "
        "through all that the study says. A real gate has it in its own settings.",
    )
    consortium: bool = Field(
        default=False,
        description="A hospital's own site: each study has a folder of its own here, and each "
        "training's last answer is kept for a server that asks again.",
    )
    own_parts: tuple[str, ...] = Field(
        default=(),
        description="Parts 'package.module:name' that a study may name here; no other is imported.",
    )

    @property
    def data_folder(self) -> Path:
        """The folder that holds this site's index.csv."""
        return self.data_root / self.data.folder

    @property
    def cohort(self) -> int:
        """The smallest cohort that this site insists on, whatever a study wishes."""
        if self.min_cohort is None:
            return COHORT if self.consortium else 0
        return self.min_cohort

    def at_work_on(self, name: str, digest: str) -> Self:
        """The settings with the folder of one study; a simulation has one study a folder anyway.

        Args:
            name: The study's.
            digest: Of the study as it crossed.
        """
        if not self.consortium:
            return self
        return self.model_copy(update={"folder": self.folder / study_folder(name, digest)})

    def __hash__(self) -> int:
        """By content, so that a site's data are opened once in a process."""
        return hash(self.model_dump_json())


def study_folder(name: str, digest: str) -> str:
    """What a study's folder at a site is called."""
    return f"{name}-{digest[:8]}"
