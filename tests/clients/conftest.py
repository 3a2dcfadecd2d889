"""One tiny phantom for all tests of a site's stages: 5 patients a probe, 4 frames each."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clients.phantom.write import generate
from tests.clients.world import PROBES, World, world_of


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "wrists"
    generate(
        folder, anatomy="wrist", probes=list(PROBES.values()), patients=5, frames=4, side=64
    )  # fmt: skip
    return folder


@pytest.fixture
def make_world(tmp_path: Path, phantom: Path) -> Callable[..., World]:
    def make(**changes: object) -> World:
        return world_of(tmp_path, phantom, **changes)

    return make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
