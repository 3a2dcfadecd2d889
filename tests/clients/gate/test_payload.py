"""Every trick that was tried on a gate is refused; what passes is written anew."""

import copy
import hashlib
import json
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord
from flwr.common.serde import message_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

import common
from clients.gate import payload, tensors
from clients.gate.facts import RefusedError
from clients.gate.payload import (
    read_instruction,
    read_reply,
    without_receipt,
    write_error,
    write_reply,
)
from clients.gate.policy import judge
from clients.gate.tensors import npy_header
from common.wire import records
from common.wire.digest import message_digest
from common.wire.gate import GATE_ERRORS, LEDGER, REFUSED_INSTRUCTION
from tests.clients.gate.world import (
    NUMBERS,
    STUDY,
    arrays,
    instruction,
    message_from_objects,
    objects_of,
    policy,
    reply_to,
)

ROOT = Path(common.__file__).parents[1]
POLICY = policy()
LETTER: dict[str, str | int] = {"key": "00" * 32, "sequence": 4, "head": "11" * 32}
Arrays = dict[str, Array]


def through(reply: Message, asked: Message | None = None) -> Message | None:
    """What leaves: None if it is refused."""
    came = asked or instruction()
    try:
        facts = read_reply(reply, came)
        if not judge(POLICY, read_instruction(came), facts).passes:
            return None
    except RefusedError:
        return None
    return write_reply(reply, facts, came, LETTER)


def on_the_wire(message: Message) -> bytes:
    return bytes(message_to_proto(message).SerializeToString(deterministic=True))


def test_the_honest_reply_passes_and_is_written_anew() -> None:
    asked = instruction()
    honest = reply_to(asked)
    left = through(honest, asked)
    assert left is not None
    assert left.content.array_records["weights"] == honest.content.array_records["weights"]
    assert dict(left.content.metric_records["metrics"]) == NUMBERS
    assert dict(left.content.config_records[LEDGER]) == LETTER
    assert left.content is not honest.content
    assert list(left.content) == ["weights", "metrics", "ledger"]


def _npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def _as(name: str, array: np.ndarray, **told: Any) -> Callable[[Arrays], Arrays]:
    def change(record: Arrays) -> Arrays:
        record[name] = Array(array)
        for key, value in told.items():
            setattr(record[name], key, value)
        return record

    return change


def _told(name: str, **told: Any) -> Callable[[Arrays], Arrays]:
    def change(record: Arrays) -> Arrays:
        for key, value in told.items():
            setattr(record[name], key, value)
        return record

    return change


def _padded(array: Array) -> bytes:
    """The same array under a longer header, which numpy reads just as well."""
    data = array.data
    length = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + length].rstrip(b"\n")
    wider = header + b" " * (length + 64 - len(header) - 1) + b"\n"
    return data[:8] + (length + 64).to_bytes(2, "little") + wider + data[10 + length :]


CONV = np.arange(6, dtype=np.float32).reshape(2, 3)
OBJECTS = np.array([["Jane", None, None]] * 2, dtype=object)
IMAGE = np.full((2, 3), 200, np.uint8)

TENSOR_TRICKS: dict[str, Callable[[Arrays], Arrays]] = {
    "image bytes under an allowed name": _as("conv.weight", IMAGE),
    "uint8 declared float32": _as("conv.weight", IMAGE, dtype="float32"),
    "uint8 declared float32, header too": _told(
        "conv.weight", data=npy_header("<f4", (2, 3)) + IMAGE.tobytes()
    ),
    "right shape, wrong name": lambda r: {("img" if k == "scale" else k): v for k, v in r.items()},
    "an extra tensor": lambda r: {**r, "img": r["scale"]},
    "a tensor twice": lambda r: {**r, "scale.1": r["scale"]},
    "another order": lambda r: dict(reversed(r.items())),
    "two tensors swapped": lambda r: {
        k: r[k] for k in ("norm.running_mean", "conv.weight", "half", "scale", "histogram")
    },
    "bytes after the payload": lambda r: _told("half", data=r["half"].data + b"x")(r),
    "a byte too few": lambda r: _told("half", data=r["half"].data[:-1])(r),
    "Fortran order": _as("conv.weight", np.asfortranarray(CONV)),
    "big-endian": _as("conv.weight", CONV.astype(">f4"), dtype="float32"),
    "padded .npy header": lambda r: _told("conv.weight", data=_padded(r["conv.weight"]))(r),
    "another .npy version": lambda r: _told(
        "conv.weight", data=r["conv.weight"].data[:6] + b"\x02\x00" + r["conv.weight"].data[8:]
    )(r),
    "pickled array": _told("conv.weight", data=_npy(OBJECTS, allow_pickle=True)),
    "other stype": _told("conv.weight", stype="Jane Doe"),
    "other dtype told": _told("conv.weight", dtype="Jane Doe"),
    "other shape told": _told("conv.weight", shape=(3, 2)),
    "a huge shape told": _told("conv.weight", shape=(2**40, 2**40)),
    "a negative shape told": _told("conv.weight", shape=(-2, -3)),
    "truth values in a shape": _told("norm.running_mean", shape=(True, 3)),
    "NaN": _as("conv.weight", np.full((2, 3), np.nan, np.float32)),
    "infinity": _as("scale", np.array(np.inf, np.float16)),
    "NaN in bfloat16": _as("half", np.full(4, 0x7FC1, np.uint16)),
    "infinity in bfloat16": _as("half", np.array([0, 0, 0, 0xFF80], np.uint16)),
    "float64": _as("conv.weight", CONV.astype(np.float64)),
    "a histogram out of range": _as("histogram", np.array([0, 0, 0, 2**62], np.int64)),
    "a negative count": _as("histogram", np.array([0, 0, -1, 0], np.int64)),
    "an int32 histogram": _as("histogram", np.zeros(4, np.int32)),
    "an update far away": _as("conv.weight", CONV + 1e6),
    "a word for a name": lambda r: {**{k: v for k, v in r.items() if k != "scale"},
                                    "Jane Doe\n1234567": r["scale"]},
    "a very long name": lambda r: {**r, "x" * 5000: r["scale"]},
}  # fmt: skip


@pytest.mark.parametrize("trick", TENSOR_TRICKS.values(), ids=list(TENSOR_TRICKS))
def test_no_trick_with_tensors_passes(trick: Callable[[Arrays], Arrays]) -> None:
    spoilt = trick(dict(arrays(0.01)))
    assert through(reply_to(instruction(), spoilt)) is None


def test_what_is_no_tuple_and_no_bytes_is_no_array() -> None:
    for told in ({"shape": [2, 3]}, {"data": bytearray(arrays()["conv.weight"].data)}):
        array = _told("conv.weight", **told)(dict(arrays()))["conv.weight"]
        with pytest.raises(RefusedError):
            payload.read_array("conv.weight", array)


METRIC_TRICKS: dict[str, dict[str, Any]] = {
    "a key that is a name": {**NUMBERS, "Jane Doe 1970-01-01": 1},
    "a list of 4,096 integers": {**NUMBERS, "loss": list(range(4096))},
    "a list of one": {**NUMBERS, "loss": [0.5]},
    "a float where an integer belongs": {**NUMBERS, "patients": 12.0},
    "an integer where a float belongs": {**NUMBERS, "loss": 1},
    "63 free bits": {**NUMBERS, "patients": 0x4A616E65446F65},
    "a missing one": {"loss": 0.5},
    "none": {},
    "NaN": {**NUMBERS, "loss": float("nan")},
    "infinity": {**NUMBERS, "loss": float("-inf")},
    "out of range": {**NUMBERS, "loss": 10.5},
    "too few patients": {**NUMBERS, "patients": 4},
    "an unprintable key": {**NUMBERS, "loss\x00": 0.5},
}


@pytest.mark.parametrize("metrics", METRIC_TRICKS.values(), ids=list(METRIC_TRICKS))
def test_no_trick_with_metrics_passes(metrics: dict[str, Any]) -> None:
    assert through(reply_to(instruction(), None, metrics)) is None


def test_the_order_of_metrics_carries_nothing() -> None:
    first = through(reply_to(instruction(), None, dict(NUMBERS)))
    second = through(reply_to(instruction(), None, dict(reversed(NUMBERS.items()))))
    assert first is not None
    assert second is not None
    names = [list(left.content.metric_records["metrics"]) for left in (first, second)]
    assert names[0] == names[1] == sorted(NUMBERS)


@pytest.mark.parametrize("record", [ConfigRecord({"note": "ward 7"}), MetricRecord({"n": 1}),
                                    ArrayRecord([np.zeros(3)])])  # fmt: skip
@pytest.mark.parametrize("name", ["note", "weights", "metrics", "ledger", "receipt"])
def test_no_unknown_record_passes(name: str, record: Any) -> None:
    asked = instruction()
    reply = reply_to(asked)
    reply.content[name] = record
    assert through(reply, asked) is None


def test_a_reply_without_weights_or_metrics_does_not_pass() -> None:
    for name in ("weights", "metrics"):
        asked = instruction()
        reply = reply_to(asked)
        del reply.content[name]
        assert through(reply, asked) is None


def test_error_text_never_leaves() -> None:
    asked = instruction()
    secret = "/data/ward-7/Jane Doe/1234567.png"
    left = through(Message(Error(1003, secret), reply_to=asked), asked)
    assert left is not None
    assert left.error.code == 1003
    assert secret.encode() not in on_the_wire(left)
    assert through(Message(Error(31_337, "x"), reply_to=asked), asked) is None
    assert write_error(asked, 1102, "ledger line 3").error.reason == "ledger line 3"


def test_a_replys_metadata_are_the_instructions() -> None:
    asked = instruction()
    reply = reply_to(asked)
    reply.metadata.__dict__.update(
        _group_id="Jane", _ttl=123.456, _message_type="train.jane", _created_at=7.0,
        _message_id="Jane", _dst_node_id=99,
    )  # fmt: skip
    left = through(reply, asked)
    assert left is not None
    told = left.metadata
    assert (told.group_id, told.message_type, told.dst_node_id) == ("mim/mim/2", "train.mim", 1)
    assert told.reply_to_message_id == "17"
    assert told.message_id == ""
    assert 0 < told.ttl <= 600
    assert abs(told.created_at - time.time()) < 60
    assert b"Jane" not in on_the_wire(left)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_of_all_mutations_only_the_manifests_own_values_pass(data: st.DataObject) -> None:
    """Any byte, label or record changed: refused, or a plain array of the same kind."""
    asked = instruction()
    record = dict(arrays(0.01))
    name = data.draw(st.sampled_from(sorted(record)))
    array = record[name]
    before = (array.dtype, array.shape, array.stype, len(array.data))
    what = data.draw(st.sampled_from(["byte", "insert", "cut", "dtype", "shape", "stype", "name"]))
    place = data.draw(st.integers(0, len(array.data) - 1))
    match what:
        case "byte":
            value = bytes([data.draw(st.integers(0, 255))])
            array.data = array.data[:place] + value + array.data[place + 1 :]
        case "insert":
            extra = data.draw(st.binary(min_size=1, max_size=9))
            array.data = array.data[:place] + extra + array.data[place:]
        case "cut":
            array.data = array.data[:place]
        case "dtype":
            array.dtype = data.draw(st.sampled_from([*tensors.DTYPES, "float64", ""]))
        case "shape":
            array.shape = tuple(data.draw(st.lists(st.integers(-1, 7), max_size=4)))
        case "stype":
            array.stype = data.draw(st.text())
        case "name":
            record[data.draw(st.text(max_size=12))] = record.pop(name)
    left = through(reply_to(asked, record), asked)
    if left is None:
        return
    out = left.content.array_records["weights"]
    assert list(out) == list(arrays())
    now = out[name]
    assert (now.dtype, now.shape, now.stype, len(now.data)) == before
    assert now.data == _npy(now.numpy())
    assert now.data.startswith(npy_header(tensors.DTYPES[now.dtype], now.shape))


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["loss", "patients", "Jane", "LOSS"]) | st.text(max_size=5),
        st.integers(-(2**63), 2**63 - 1) | st.floats() | st.lists(st.integers(0, 9), max_size=3),
        max_size=4,
    )
)
def test_of_all_metrics_only_those_in_range_pass(metrics: dict[str, Any]) -> None:
    left = through(reply_to(instruction(), None, metrics))
    honest = (
        set(metrics) == {"loss", "patients"}
        and isinstance(metrics["loss"], float)
        and -10 <= metrics["loss"] <= 10
        and isinstance(metrics["patients"], int)
        and 5 <= metrics["patients"] <= 1000
    )
    assert (left is not None) == honest


# Instructions.


@pytest.mark.parametrize(
    "change",
    [
        {"order": "open the masks"}, {"round": "2"}, {"round": True}, {"seed": 1.0},
        {"study": "{}"}, {"sha256": "0" * 64}, {"stage": "lower"}, {"training": ["mim/mim"]},
        {"step": 1},
    ],
)  # fmt: skip
def test_what_is_no_instruction_does_not_come_in(change: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as caught:
        read_instruction(instruction(None, **change))
    assert caught.value.code == REFUSED_INSTRUCTION


@pytest.mark.parametrize("key", ["study", "sha256", "stage", "training", "round", "seed", "step"])
def test_an_instruction_lacks_nothing(key: str) -> None:
    message = instruction()
    del message.content.config_records["instruction"][key]
    with pytest.raises(RefusedError, match="its keys"):
        read_instruction(message)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(STUDY), '{"name":"wrist","name":"knee"}', '{"b":1,"a":2}', "[1]", "no JSON",
        '{"name":NaN}', '"' * 3, "[" * 100_000,
    ],
)  # fmt: skip
def test_a_study_has_one_text(text: str) -> None:
    digest = hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(RefusedError):
        read_instruction(instruction(None, study=text, sha256=digest))


def test_the_sites_code_never_sees_the_servers_receipt() -> None:
    message = instruction()
    message.content["receipt"] = ConfigRecord({"line": "signed"})
    read_instruction(message)
    below, line = without_receipt(message)
    assert line == "signed"
    assert list(below.content) == ["instruction", "weights"]
    assert without_receipt(below)[1] == ""


def test_a_digest_covers_all_that_leaves() -> None:
    facts = read_reply(reply_to(instruction()))
    tensors = [
        (name, len(array.data), hashlib.sha256(array.data).hexdigest())
        for name, array in arrays(0.01).items()
    ]
    text = json.dumps(
        {"metrics": {"loss": "0.5", "patients": 12}, "tensors": tensors},
        sort_keys=True, separators=(",", ":"),
    )  # fmt: skip
    assert facts.digest == hashlib.sha256(text.encode()).hexdigest()
    assert facts.bytes == sum(size for _, size, _ in tensors) + 16
    assert message_digest([], {}) != facts.digest


# Objects, as they travel between a SuperNode and the network.


@lru_cache(maxsize=1)
def _objects() -> dict[str, bytes]:
    return objects_of(reply_to(instruction()))


def honest_objects() -> tuple[str, dict[str, bytes]]:
    """Always the same: a message holds the time at which it was made."""
    objects = dict(_objects())
    return list(objects)[-1], objects


def renamed(objects: dict[str, bytes], old: str, new: bytes) -> tuple[str, dict[str, bytes]]:
    """One object replaced, and every parent's reference to it, up to the root."""
    ids: dict[str, str] = {}
    found: dict[str, bytes] = {}
    for name, content in objects.items():  # children come before their parents
        fresh = new if name == old else content
        for before, after in ids.items():
            fresh = fresh.replace(before.encode(), after.encode())
        ids[name] = hashlib.sha256(fresh).hexdigest()
        found[ids[name]] = fresh
    return ids[list(objects)[-1]], found


def of_type(objects: dict[str, bytes], kind: str) -> str:
    return next(n for n, c in objects.items() if c.split(b" ")[0].decode() == kind)


def body_replaced(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    head, _, body = content.partition(b"\x00")
    kind, children, _ = head.decode().split(" ")
    new = change(body)
    return f"{kind} {children} {len(new)}".encode() + b"\x00" + new


def test_honest_objects_are_read() -> None:
    root, objects = honest_objects()
    message = message_from_objects(root, objects)
    assert through(message) is not None


def _unknown_field(body: bytes) -> bytes:
    # Field 1000, length-delimited: what no version of the protocol knows.
    return body + b"\xc2\x3e\x08Jane Doe"


OBJECT_TRICKS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "unknown protobuf field in a metric": ("MetricRecord", _unknown_field),
    "unknown protobuf field in the message": ("Message", _unknown_field),
    "extra JSON key": ("Array", lambda b: b[:-1] + b', "note": "Jane Doe"}'),
    "duplicate JSON key": ("Array", lambda b: b.replace(b"{", b'{"dtype": "Jane Doe", ', 1)),
    "white space in JSON": ("ArrayRecord", lambda b: b.replace(b": ", b":  ", 1)),
    "white space behind JSON": ("RecordDict", lambda b: b + b" "),
}


@pytest.mark.parametrize(("kind", "change"), OBJECT_TRICKS.values(), ids=list(OBJECT_TRICKS))
def test_no_trick_with_objects_is_read(kind: str, change: Callable[[bytes], bytes]) -> None:
    _, objects = honest_objects()
    old = of_type(objects, kind)
    root, spoilt = renamed(objects, old, body_replaced(objects[old], change))
    assert root in spoilt
    with pytest.raises(RefusedError):
        message_from_objects(root, spoilt)


def test_an_unreferenced_object_is_refused() -> None:
    root, objects = honest_objects()
    chunk = of_type(objects, "ArrayChunk")
    stray = body_replaced(objects[chunk], lambda _: b"pixels of ward 7")
    with pytest.raises(RefusedError, match="1 object"):
        message_from_objects(root, {**objects, hashlib.sha256(stray).hexdigest(): stray})


def test_an_odd_chunk_split_is_refused() -> None:
    _, objects = honest_objects()
    old = of_type(objects, "Array")
    chunk = next(n for n in objects if n.encode() in objects[old])
    data = objects[chunk].partition(b"\x00")[2]
    parts = [b"ArrayChunk  %d\x00" % len(part) + part for part in (data[:5], data[5:])]
    names = [hashlib.sha256(part).hexdigest() for part in parts]
    body = objects[old].partition(b"\x00")[2].replace(b"[0]", b"[0, 1]")
    array = f"Array {','.join(names)} {len(body)}".encode() + b"\x00" + body
    root, spoilt = renamed(objects, old, array)
    spoilt.pop(chunk)
    spoilt |= dict(zip(names, parts, strict=True))
    with pytest.raises(RefusedError, match="not cut as Flower does"):
        message_from_objects(root, spoilt)


def test_missing_and_renamed_objects_are_refused() -> None:
    root, objects = honest_objects()
    for name in objects:
        rest = {key: value for key, value in objects.items() if key != name}
        with pytest.raises(RefusedError):
            message_from_objects(root, rest)
        with pytest.raises(RefusedError, match="not what its id says"):
            message_from_objects(root, {**objects, name: objects[name] + b" "})


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_changed_byte_of_an_object_goes_unseen(data: st.DataObject) -> None:
    """With every reference made to fit: refused, or a message that is written just so."""
    _, objects = honest_objects()
    old = data.draw(st.sampled_from(sorted(objects)))
    place = data.draw(st.integers(0, len(objects[old]) - 1))
    value = bytes([data.draw(st.integers(0, 255))])
    new = objects[old][:place] + value + objects[old][place + 1 :]
    root, spoilt = renamed(objects, old, new)
    try:
        message = message_from_objects(root, spoilt)
    except RefusedError:
        return
    assert objects_of(message) == {name: spoilt[name] for name in objects_of(message)}


def test_the_gate_knows_the_vocabularys_words() -> None:
    for name in ("WEIGHTS", "METRICS", "INSTRUCTION"):
        assert getattr(payload, name) == getattr(records, name)
    assert set(records.ERRORS) <= set(payload.SITE_ERRORS)
    told = dict(records.Instruction("{}", "mim").to_record())
    assert {name: type(value) for name, value in told.items()} == payload.FIELDS
    assert not set(records.ERRORS) & set(GATE_ERRORS)


def test_the_gate_imports_no_torch() -> None:
    names = sorted(
        f"clients.gate.{path.stem}" for path in (ROOT / "clients" / "gate").glob("[a-z]*.py")
    )
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_reading_costs_no_copy_of_the_weights() -> None:
    """The honest arrays' bytes are the bytes that leave: compared, not copied."""
    asked = instruction()
    reply = reply_to(asked, OrderedDict(arrays(0.01)))
    kept = {name: array.data for name, array in reply.content.array_records["weights"].items()}
    left = through(copy.copy(reply), asked)
    assert left is not None
    record = left.content.array_records["weights"]
    assert all(record[name].data is data for name, data in kept.items())
