"""A target of the phantom whose images readers read: a worklist over sweeps, with reasons."""

from pathlib import Path
from typing import Any

from clients.annotations import Choice, write_worklist
from clients.data.manifest import Row, read_manifest
from clients.phantom.write import generate
from clients.settings import SiteSettings
from common.config.data import DataSpec
from common.config.load import parse_study
from common.config.study import Study

REASONS = (
    "Between two groups of images, and unlike its reconstruction.",
    "Between two groups of images.",
    "Unlike its reconstruction.",
)


def reading_study(*, outlines: bool = False, **changes: Any) -> Study:
    """A study that asks for labels, and maybe for outlines."""
    arms = ["ensemble", "ensemble_selected", "dual"] if outlines else ["dual", "random"]
    return parse_study(
        {
            "name": "breast_reading",
            "arms": arms,
            "sites": {"ada": {"role": "source"}, "hillcrest": {"role": "target"}},
            "model": {"preset": "tiny", "image_size": 32},
            "select": {"budgets": [0.2, 0.5]},
            "annotate": {"labels": "file"},
            "sphere": {"architecture": "test_efficientnet"},
            "classify": {"architectures": ["test_efficientnet"]},
            **changes,
        },
        "reading",
    )


def reading_site(
    root: Path, *, patients: int = 4, frames: int = 4, side: int = 96, wanted: int = 6
) -> SiteSettings:
    """A target with sweeps of which every second frame or so is on the list."""
    data = root / "data"
    probes = ["linear_pocket"]
    generate(data, anatomy="breast", probes=probes, patients=patients, frames=frames, side=side)
    site = SiteSettings(
        name="hillcrest",
        role="target",
        data=DataSpec(folder="linear_pocket"),
        data_root=data,
        folder=root / "sites" / "hillcrest",
        cache=root / "cache",
    )
    site.cache.mkdir()
    rows = rows_of(site)
    order = [rows[(place * 7 + 2) % len(rows)] for place in range(len(rows))]
    ids = list(dict.fromkeys(row.id for row in order))[:wanted]
    choices = [
        Choice(id_, rank, REASONS[rank % 3], 0.31 / rank, 0.7 + 0.01 * rank)
        for rank, id_ in enumerate(ids, start=1)
    ]
    write_worklist(site.folder, "dual", 0.2, choices[: wanted // 2])
    write_worklist(site.folder, "dual", 0.5, choices)
    return site


def rows_of(site: SiteSettings) -> list[Row]:
    """The rows of its manifest."""
    return read_manifest(site.data_folder, site.data)
