"""The settings of all sites of a simulation, in one local file."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from clients.settings import SiteSettings


@lru_cache(maxsize=8)
def read_sites(path: Path) -> tuple[SiteSettings, ...]:
    """Read the list that `write_sites` wrote, in the study's order."""
    return tuple(
        SiteSettings.model_validate(item) for item in json.loads(path.read_text(encoding="utf-8"))
    )


def write_sites(path: Path, sites: Sequence[SiteSettings]) -> None:
    """Write the list; it stays on this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([site.model_dump(mode="json") for site in sites], indent=1)
    path.write_text(text, encoding="utf-8")
    read_sites.cache_clear()
