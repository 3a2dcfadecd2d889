"""Flower's messages to facts and back: what passes is written anew.

Of a reply's metadata nothing is kept; it is the instruction's. `clients/gate/tensors.py` reads the
tensors; here is everything else.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import SType

from clients.gate.facts import InstructionFacts, RefusedError, ReplyFacts, TensorFacts
from clients.gate.tensors import Told, check_name, read_tensor
from clients.gate.tensors import refused as _no
from common.wire.gate import LEDGER, METRICS, RECEIPT, REFUSED_INSTRUCTION, WEIGHTS

INSTRUCTION = "instruction"

SITE_ERRORS = range(1001, 1007)
"""A site's own codes (common.wire.records.ERRORS), which pass without a word."""
FLOWER_ERRORS = range(9)
"""Flower's own (flwr.common.constant.ErrorCode): its process at the site failed or crashed."""

DEEPEST = 12
"""Tables in tables of a study; an honest one has five."""

FIELDS: Mapping[str, type] = {
    "study": str, "sha256": str, "stage": str, "training": str, "round": int, "seed": int,
    "step": str,
}  # fmt: skip
DOWN: Mapping[str, type] = {INSTRUCTION: ConfigRecord, WEIGHTS: ArrayRecord, RECEIPT: ConfigRecord}
UP: Mapping[str, type] = {WEIGHTS: ArrayRecord, METRICS: MetricRecord}


def read_instruction(message: Message, bundle: str = "") -> InstructionFacts:
    """What a message asks.

    Args:
        message: As it came in.
        bundle: SHA-256 of the code that it would run.

    Raises:
        RefusedError: If it is no instruction as the vocabulary writes them.
    """
    try:
        if message.has_error():
            raise _no("it is an error, not an instruction")
        content = message.content
        check_records({name: type(content[name]) for name in content}, DOWN)
        read_receipt(content.config_records.get(RECEIPT))
        return instruction_facts(
            message.metadata.message_type,
            content.config_records.get(INSTRUCTION),
            bundle,
            _tensors(content, None),
        )
    except RefusedError as error:
        raise RefusedError(REFUSED_INSTRUCTION, error.words) from None


def read_receipt(record: ConfigRecord | None) -> str:
    """The server's receipt in an instruction; empty where there is none.

    Raises:
        RefusedError: If its record holds anything else.
    """
    if record is None:
        return ""
    line = record.get("line")
    if set(record) != {"line"} or type(line) is not str or not line:
        raise _no("its receipt is none")
    return line


def instruction_facts(
    kind: str, record: ConfigRecord | None, bundle: str, tensors: tuple[TensorFacts, ...]
) -> InstructionFacts:
    """What an instruction's record asks.

    Args:
        kind: The message's type.
        record: The record.
        bundle: SHA-256 of the code that it would run.
        tensors: The weights beside it.

    Raises:
        RefusedError: If it is no instruction.
    """
    if record is None:
        raise _no("no instruction came")
    if set(record) != set(FIELDS):
        raise _no("its keys are not those of an instruction")
    for key, value in record.items():
        if type(value) is not FIELDS[key]:
            raise _no(f"{key} is no {FIELDS[key].__name__}")
    text = str(record["study"])
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != record["sha256"]:
        raise _no("the study does not match its SHA-256")
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
        tensors,
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
    if _depth(study) > DEEPEST:
        raise _no("its study is too deep")
    return study


def _depth(value: Any) -> int:
    """How deep lists and tables lie in each other; level by level, for the stack is not endless."""
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _within(outer)]:
        depth += 1
    return depth


def _within(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list) else ()


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
        return ReplyFacts(error=error_code(reply.error.code))
    content = reply.content
    check_records({name: type(content[name]) for name in content}, UP)
    metrics = read_metrics(content.metric_records.get(METRICS))
    came = incoming.content.array_records.get(WEIGHTS) if incoming is not None else None
    return ReplyFacts(_tensors(content, came), metrics)


def error_code(code: int) -> int:
    """The code of an error, if it may leave.

    Raises:
        RefusedError: If it is none of the site's or of Flower's.
    """
    if code not in SITE_ERRORS and code not in FLOWER_ERRORS:
        raise _no("its error code is none of the site's")
    return code or SITE_ERRORS.start + 2


def read_metrics(record: MetricRecord | None) -> dict[str, float | int]:
    """The scalars of a reply, by name.

    Raises:
        RefusedError: If one is no single finite number.
    """
    metrics: dict[str, float | int] = {}
    for name, value in sorted(dict(record or {}).items()):
        check_name(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _no(f"metric {name!r:.80}: is no single number")
        if not math.isfinite(value):
            raise _no(f"metric {name!r:.80}: is not finite")
        metrics[name] = int(value) if isinstance(value, int) else float(value)
    return metrics


def write_reply(
    reply: Message, facts: ReplyFacts, asked: Message, ledger: Mapping[str, str | int] | None
) -> Message:
    """The reply that leaves: built from what was checked, and nothing else.

    A record that holds nothing is left out: whether it was there would say something.

    Args:
        reply: As the site's code gave it; only the arrays' bytes are taken, which were compared.
        facts: What `read_reply` found in it.
        asked: The instruction; all metadata come from it.
        ledger: Put beside it: the ledger's key, sequence and head.
    """
    if facts.error:
        return write_error(asked, facts.error, "see the site's own log")
    content = RecordDict()
    if facts.tensors:
        record = reply.content.array_records[WEIGHTS]
        content[WEIGHTS] = ArrayRecord(
            {t.name: Array(t.dtype, t.shape, SType.NUMPY, record[t.name].data)
             for t in facts.tensors}
        )  # fmt: skip
    if facts.metrics:
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
    told = read_receipt(content.config_records[RECEIPT])
    below = RecordDict({name: content[name] for name in content if name != RECEIPT})
    message.content = below
    return message, told


def check_records(found: Mapping[str, type], known: Mapping[str, type]) -> None:
    """No record but the known ones, each of its own kind.

    Raises:
        RefusedError: If there is another.
    """
    for name, kind in found.items():
        if name not in known:
            raise _no(f"record {name!r:.80}: is unknown")
        if kind is not known[name]:
            raise _no(f"record {name}: is no {known[name].__name__}")


def _tensors(content: RecordDict, incoming: ArrayRecord | None) -> tuple[TensorFacts, ...]:
    record = content.array_records.get(WEIGHTS)
    if record is None:
        return ()
    return tuple(
        read_array(name, array, incoming.get(name) if incoming is not None else None)
        for name, array in record.items()
    )


def read_array(name: str, array: Array, incoming: Array | None = None) -> TensorFacts:
    """One tensor's facts, where all of it is at hand; see `clients.gate.tensors.read_tensor`."""
    if type(array.data) is not bytes:
        raise _no(f"{name}: holds no bytes")
    told = Told(array.dtype, array.shape, array.stype)
    alike = incoming is not None and Told(incoming.dtype, incoming.shape, incoming.stype) == told
    old = (incoming.data,) if incoming is not None and alike else None
    return read_tensor(name, told, (array.data,), old)
