"""Flower's messages to facts and back: decoded tensor by tensor, and what passes is written anew.

Nothing is interpreted that is not first compared: no pickle, archive, header of one's own, foreign
order of bytes or axes has a way in. Of a reply's metadata nothing is kept; it is the instruction's.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray

from clients.gate.facts import InstructionFacts, RefusedError, ReplyFacts, TensorFacts
from common.wire.digest import measure
from common.wire.gate import (
    LEDGER,
    METRICS,
    RECEIPT,
    REFUSED_CONTENT,
    REFUSED_INSTRUCTION,
    WEIGHTS,
)

INSTRUCTION = "instruction"

ERROR_CODES = range(1001, 1010)
"""A site's own codes (common.wire.records.ERRORS), which pass without a word."""

FIELDS: Mapping[str, type] = {
    "study": str, "sha256": str, "stage": str, "training": str, "round": int, "seed": int,
    "step": str,
}  # fmt: skip
LONGEST_NAME = 256
DTYPES: Mapping[str, str] = {
    "float32": "<f4", "float16": "<f2", "uint16": "<u2", "int64": "<i8", "int32": "<i4",
    "int16": "<i2", "int8": "|i1", "uint8": "|u1", "bool": "|b1",
}  # fmt: skip
"""Dtypes that can travel at all; which may, the manifest says. uint16 is bfloat16's bits."""


def read_instruction(message: Message, bundle: str = "") -> InstructionFacts:
    """What a message asks.

    Args:
        message: As it came in.
        bundle: SHA-256 of the code that it would run.

    Raises:
        RefusedError: If it is no instruction as the vocabulary writes them.
    """
    try:
        return _read_instruction(message, bundle)
    except RefusedError as error:
        raise RefusedError(REFUSED_INSTRUCTION, error.words) from None


def _read_instruction(message: Message, bundle: str) -> InstructionFacts:
    if message.has_error():
        raise _no("it is an error, not an instruction")
    content = message.content
    kinds = {INSTRUCTION: ConfigRecord, WEIGHTS: ArrayRecord, RECEIPT: ConfigRecord}
    _check_records(content, kinds)
    if INSTRUCTION not in content:
        raise _no("no instruction came")
    record = dict(content.config_records[INSTRUCTION])
    if set(record) != set(FIELDS):
        raise _no("its keys are not those of an instruction")
    for key, value in record.items():
        if type(value) is not FIELDS[key]:
            raise _no(f"{key} is no {FIELDS[key].__name__}")
    text = str(record["study"])
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != record["sha256"]:
        raise _no("the study does not match its SHA-256")
    kind = message.metadata.message_type
    if kind.partition(".")[2] != record["stage"]:
        raise _no("its stage is not the message's")
    return InstructionFacts(
        kind,
        _study(text),
        digest,
        str(record["training"]),
        int(str(record["round"])),
        int(str(record["seed"])),
        str(record["step"]),
        bundle,
        _tensors(content, None),
    )


def _study(text: str) -> Mapping[str, Any]:
    """A study's canonical JSON: its one text, so no key stands twice and none is hidden."""
    try:
        study = json.loads(text, parse_constant=_no_constant)
        same = json.dumps(study, sort_keys=True, separators=(",", ":"), ensure_ascii=True) == text
    except (ValueError, RecursionError):
        raise _no("its study is no JSON") from None
    if not same or not isinstance(study, dict):
        raise _no("its study is not written canonically")
    return study


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no number")


def read_reply(reply: Message, incoming: Message | None = None) -> ReplyFacts:
    """What a reply would let out.

    Args:
        reply: As the site's code gave it.
        incoming: The instruction, where the update is to be measured against its weights.

    Raises:
        RefusedError: If anything in it is not as an honest sender writes it.
    """
    if reply.has_error():
        if reply.error.code not in ERROR_CODES:
            raise _no("its error code is none of the site's")
        return ReplyFacts(error=reply.error.code)
    content = reply.content
    _check_records(content, {WEIGHTS: ArrayRecord, METRICS: MetricRecord})
    metrics: dict[str, float | int] = {}
    for name, value in sorted(dict(content.metric_records.get(METRICS, {})).items()):
        _check_name(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _no(f"metric {name!r:.80}: is no single number")
        if not math.isfinite(value):
            raise _no(f"metric {name!r:.80}: is not finite")
        metrics[name] = int(value) if isinstance(value, int) else float(value)
    came = incoming.content.array_records.get(WEIGHTS) if incoming is not None else None
    return ReplyFacts(_tensors(content, came), metrics)


def write_reply(
    reply: Message, facts: ReplyFacts, asked: Message, ledger: Mapping[str, str | int] | None
) -> Message:
    """The reply that leaves: built from what was checked, and nothing else.

    Args:
        reply: As the site's code gave it; only the arrays' bytes are taken, which were compared.
        facts: What `read_reply` found in it.
        asked: The instruction; all metadata come from it.
        ledger: Put beside it: the ledger's key, sequence and head.
    """
    if facts.error:
        return write_error(asked, facts.error, "see the site's own log")
    content = RecordDict()
    if WEIGHTS in reply.content.array_records:
        record = reply.content.array_records[WEIGHTS]
        content[WEIGHTS] = ArrayRecord(
            {t.name: Array(t.dtype, t.shape, SType.NUMPY, record[t.name].data)
             for t in facts.tensors}
        )  # fmt: skip
    if METRICS in reply.content.metric_records:
        content[METRICS] = MetricRecord(dict(facts.metrics))
    if ledger is not None:
        content[LEDGER] = ConfigRecord(dict(ledger))
    return Message(content, reply_to=asked)


def write_error(asked: Message, code: int, reason: str) -> Message:
    """An answer that is a code. The reason is this gate's own fixed word, never the site's."""
    return Message(Error(code=code, reason=reason), reply_to=asked)


def without_receipt(message: Message) -> tuple[Message, str]:
    """The instruction as the site's code gets it, and the server's receipt in it, if any."""
    content = message.content
    if RECEIPT not in content:
        return message, ""
    record = content.config_records[RECEIPT]
    told = record.get("line", "")
    below = RecordDict({name: content[name] for name in content if name != RECEIPT})
    message.content = below
    return message, told if isinstance(told, str) else ""


def _check_records(content: RecordDict, kinds: Mapping[str, type]) -> None:
    for name in content:
        if name not in kinds:
            raise _no(f"record {name!r:.80}: is unknown")
        if type(content[name]) is not kinds[name]:
            raise _no(f"record {name}: is no {kinds[name].__name__}")


def _check_name(name: object) -> None:
    if type(name) is not str or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise _no(f"{name!r:.80}: is no name")


def _tensors(content: RecordDict, incoming: ArrayRecord | None) -> tuple[TensorFacts, ...]:
    if WEIGHTS not in content:
        return ()
    record = content.array_records[WEIGHTS]
    return tuple(
        read_tensor(name, array, incoming.get(name) if incoming is not None else None)
        for name, array in record.items()
    )


def read_tensor(name: str, array: Array, incoming: Array | None = None) -> TensorFacts:
    """One tensor's facts.

    Args:
        name: Its name.
        array: As it travels.
        incoming: The tensor of that name that came with the instruction; it was checked then.

    Raises:
        RefusedError: If its bytes are not the only ones that numpy writes for what it says it is.
    """
    _check_name(name)
    dtype, shape = array.dtype, array.shape
    if dtype not in DTYPES:
        raise _no(f"{name}: dtype {dtype!r:.80} does not travel")
    if type(shape) is not tuple or any(type(side) is not int or side < 0 for side in shape):
        raise _no(f"{name}: shape {shape!r:.80} is none")
    if array.stype != SType.NUMPY:
        raise _no(f"{name}: stype {array.stype!r:.80} is not {SType.NUMPY}")
    if type(array.data) is not bytes:
        raise _no(f"{name}: holds no bytes")
    values = _values(name, dtype, shape, array.data)
    size, sha256 = measure(name, array.data)[1:]
    if dtype in ("float32", "float16", "uint16"):
        square, update = _against(dtype, shape, values, incoming)
        finite = _finite(dtype, values)
        return TensorFacts(name, dtype, shape, size, sha256, finite, None, None, square, update)
    if dtype == "bool" and values.size and values.view(np.uint8).max() > 1:
        raise _no(f"{name}: a truth value is neither 0 nor 1")
    low, high = (int(values.min()), int(values.max())) if values.size else (None, None)
    return TensorFacts(name, dtype, shape, size, sha256, True, low, high)


def _values(name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> NDArray[Any]:
    header = npy_header(DTYPES[dtype], shape)
    if not data.startswith(header):
        raise _no(f"{name}: is not a plain array {dtype} {list(shape)}")
    if len(data) != len(header) + math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
        raise _no(f"{name}: {len(data)} bytes are too few or too many for {dtype} {list(shape)}")
    return np.frombuffer(data, DTYPES[dtype], offset=len(header))


@lru_cache(maxsize=4096)
def npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    """The one header that numpy writes for such an array."""
    buffer = BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def _finite(dtype: str, values: NDArray[Any]) -> bool:
    if dtype == "uint16":
        # bfloat16's exponent, all ones: NaN or infinity.
        return bool(((values & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(values).all())


def _against(
    dtype: str, shape: tuple[int, ...], values: NDArray[Any], incoming: Array | None
) -> tuple[float | None, float | None]:
    """Sums of squares of what came, and of the difference from it, in blocks and float64."""
    if incoming is None or (incoming.dtype, incoming.shape) != (dtype, shape):
        return None, None
    header = npy_header(DTYPES[dtype], shape)
    came = np.frombuffer(incoming.data, DTYPES[dtype], offset=len(header))
    square = update = 0.0
    # What is not finite is refused for that; here it must only not raise a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, values.size, BLOCK):
            old = _as_float(dtype, came[start : start + BLOCK])
            difference = _as_float(dtype, values[start : start + BLOCK]) - old
            square += float(old @ old)
            update += float(difference @ difference)
    return square, update


BLOCK = 2**18


def _as_float(dtype: str, values: NDArray[Any]) -> NDArray[np.float64]:
    if dtype == "uint16":
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def _no(words: str) -> RefusedError:
    return RefusedError(REFUSED_CONTENT, words)
