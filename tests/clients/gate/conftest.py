"""Keys of a site and its center, made once."""

from collections.abc import Iterator

import pytest

from tests.clients.gate.center import Center, Keys


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def center(keys: Keys) -> Iterator[Center]:
    with Center(keys) as center:
        yield center
