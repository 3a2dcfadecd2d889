"""Tensors are read while others come, each against the one that it answers."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.proto.fleet_pb2 import PushMessagesRequest

from clients.gate.arrivals import Arrival
from clients.gate.facts import RefusedError
from clients.gate.objects import open_held
from clients.gate.spool import Exchange, Standing
from tests.clients.gate.test_door import tree_of
from tests.clients.gate.world import instruction, objects_of, reply_to

NAMES = ("a", "b", "c")


def arrival(folder: Path) -> tuple[Arrival, dict[str, bytes]]:
    """A reply of three tensors of one shape that is about to come, and its objects."""
    asked = instruction()
    came = {name: np.full(4, place, np.float32) for place, name in enumerate(NAMES)}
    asked.content["weights"] = ArrayRecord({name: Array(came[name]) for name in NAMES})
    moved = {name: Array(came[name] + np.float32(0.5)) for name in NAMES}
    reply = objects_of(reply_to(asked, moved))
    exchange = Exchange(folder, Standing(number=1))
    whole = objects_of(asked)
    for name, content in whole.items():
        exchange.asked.put(name, content)
    held = open_held(list(whole)[-1], exchange.asked, whole)
    request = PushMessagesRequest(message_object_trees=[tree_of(reply)])
    return Arrival(exchange, request, held.arrays["weights"]), reply


ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("order", ORDERS)
def test_tensors_are_read_in_their_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    """They come side by side, so a later one may be here first; its name comes last of all."""
    coming, reply = arrival(tmp_path)
    nodes = list(coming._waiting)
    assert len(nodes) == 3
    read = []
    for place in order:
        for name in (*(n for n in reply if f"{n}".encode() in reply[nodes[place]]), nodes[place]):
            for _ in range(coming.take(name, reply[name])):
                coming.read_next()
                read = [facts.name for facts in coming.read.values()]
        assert read == list(NAMES[: len(read)])
    assert read == list(NAMES)
    facts = list(coming.read.values())
    assert [found.update_square for found in facts] == pytest.approx([1.0, 1.0, 1.0])


def test_what_was_not_announced_or_is_not_what_its_id_says(tmp_path: Path) -> None:
    coming, reply = arrival(tmp_path)
    name = next(iter(reply))
    with pytest.raises(RefusedError, match="not what its id says"):
        coming.take(name, b"something else")
    with pytest.raises(RefusedError, match="belongs to nothing"):
        coming.take("0" * 64, b"something else")
    assert name in coming.missing
    coming.take(name, reply[name])
    assert coming.take(name, reply[name]) == 0
    assert name not in coming.missing
