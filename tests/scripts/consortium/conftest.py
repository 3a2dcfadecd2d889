"""A center that runs: nginx, SuperLink, two members."""

from collections.abc import Iterator

import pytest

from common.keeper import stop_keeper
from scripts.consortium import keep
from scripts.keepers import start_keeper
from scripts.ports import free_ports
from server.consortium import membership
from server.consortium import register as registers
from server.consortium.place import Place
from tests.scripts.consortium.running import Center, admit


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Center]:
    folder = tmp_path_factory.mktemp("intruders")
    place = Place(folder / "center")
    front, superlink, health = free_ports(3)
    address = f"127.0.0.1:{front}"
    membership.found(place, "test", address, address, superlink, health)
    for name in ("ada", "bo"):
        admit(place, folder, name)
    start_keeper("scripts.consortium.keep", place.root, [], folder / "keeper.log", guarded=True)
    try:
        assert keep.wait_healthy(place, registers.read(place)), (folder / "keeper.log").read_text()
        keep.settle(place)
        yield Center(place, folder)
    finally:
        assert stop_keeper(place.status)
