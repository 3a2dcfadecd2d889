"""Flower's Fleet API as the gate knows it. A new route or field must be looked at before it passes.

After looking: `python -m tests.clients.gate.test_contract` writes fleet_api.txt anew.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array
from flwr.supercore.inflatable.inflatable_utils import inflatable_class_registry
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.routers.fleet.router import router
from flwr.supernode.fleet_http_client import FleetHttpClient

from clients.gate.door import _CALLS, ROUTES
from clients.gate.objects import object_id, written_array, written_message
from clients.gate.tensors import Told
from clients.gate.upstream import Transport
from tests.clients.gate.world import arrays, instruction, objects_of

FROZEN = Path(__file__).with_name("fleet_api.txt")


def api() -> str:
    """Every Fleet route with its messages, and every field of every message that they hold."""
    lines: list[str] = []
    seen: dict[str, str] = {}
    for route in sorted(router.routes, key=lambda route: route.path):  # type: ignore[attr-defined]
        path, methods = route.path, sorted(route.methods)  # type: ignore[attr-defined]
        asked = PROTOBUF_REQUEST_TYPES[("POST", path)]
        answered = route.endpoint.__annotations__["return"]  # type: ignore[attr-defined]
        lines.append(f"{' '.join(methods)} {path} {asked.__name__} {answered.__name__}")
        for message in (asked, answered):
            seen |= dict(fields(message.DESCRIPTOR))
    lines += [f"{name}\n{seen[name]}" for name in sorted(seen)]
    return "\n".join(lines) + "\n"


def fields(message: Any) -> Iterator[tuple[str, str]]:
    """A message's fields by number, and those of the messages in it."""
    rows = [
        f"  {field.number} {field.name} {field.type} {'*' if field.is_repeated else '.'} "
        f"{field.message_type.full_name if field.message_type else ''}".rstrip()
        for field in sorted(message.fields, key=lambda field: field.number)
    ]
    yield message.full_name, "\n".join(rows)
    for field in message.fields:
        inner = field.message_type
        if inner is not None and inner.full_name != message.full_name:
            yield from fields(inner)


def test_flowers_fleet_api_is_the_one_that_the_gate_knows() -> None:
    assert api() == FROZEN.read_text(), "Flower's Fleet API has changed: look before it passes"


def test_the_gate_answers_every_route_and_no_other() -> None:
    flowers = {
        path: kind for (_, path), kind in PROTOBUF_REQUEST_TYPES.items() if "/fleet/" in path
    }
    assert flowers == ROUTES
    assert set(_CALLS) == set(ROUTES.values())


def test_a_changed_api_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.proto.run_pb2 import Run

    route = router.routes[0]
    monkeypatch.setattr(route, "endpoint", lambda: None)
    monkeypatch.setitem(route.endpoint.__annotations__, "return", Run)  # type: ignore[attr-defined]
    assert api() != FROZEN.read_text()


def test_flowers_client_still_goes_through_the_one_hook() -> None:
    """Every call of its list; the transport replaces what sends it."""
    sent = []

    class Recorded(Transport):
        def __init__(self) -> None:
            pass

        def _unary_unary(self, **told: Any) -> Any:
            sent.append(told["path"])

    calls = [name for name in vars(FleetHttpClient) if not name.startswith("_")]
    for name in calls:
        getattr(Recorded(), name)(None)
    assert sorted(sent) == sorted(ROUTES)


def test_objects_are_written_as_flower_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 50)
    for array in arrays().values():
        chunks = [name for name, _ in array.slice_array()]
        told = Told(array.dtype, array.shape, array.stype)
        assert written_array(told, chunks) == array.deflate()
    zeros = Array("float32", (30,), "numpy.ndarray", b"\0" * 120)
    chunks = [name for name, _ in zeros.slice_array()]
    assert len(set(chunks)) < len(chunks)
    assert written_array(Told("float32", (30,), "numpy.ndarray"), chunks) == zeros.deflate()
    message = instruction()
    content = message.content.object_id
    assert written_message(message, content) == message.deflate()
    assert object_id(message.deflate()) == list(objects_of(message))[-1]


def test_flower_knows_no_other_object() -> None:
    assert set(inflatable_class_registry) == {
        "ArrayChunk", "Array", "ArrayRecord", "ConfigRecord", "Message", "MetricRecord",
        "RecordDict",
    }  # fmt: skip


if __name__ == "__main__":
    FROZEN.write_text(api())
