"""Positive controls: each trick through a gate, and past it. What never fails proves nothing.

Through the gate nothing of a canary may arrive. Past it, in clear, the search must find what the
trick carries, or a search that finds nothing elsewhere would mean nothing.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, RecordDict

from clients.exchanges import split_name
from clients.gate.manifest import Exchange, Manifest, Tensor, digest, dump
from clients.gate.policy import Policy
from common.errors import InputError
from common.ledger_check import read
from common.ledger_format import Line
from common.wire.gate import GATE_ERRORS
from scripts.audit.cheat import Cheat
from scripts.audit.door import Door, running_gate, small_bundle, write_site_file
from scripts.audit.search import Searcher
from scripts.audit.sink import Order, Sink, sha256
from scripts.audit.tricks import HIDDEN, Secret, Trick, all_tricks
from scripts.gate.check import honest_metrics, least_allowed

WAIT_S = 120.0
KINDS = ("float32", "float16", "uint16", "int64", "bool")
ROOM = 4096
"""Floats that a tensor needs to hold a canary."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Control:
    """One trick, tried.

    Attributes:
        name: What it is.
        caught: Whether the gate kept it in.
        code: What the server learned; 0 where an honest rest passed.
        line: The ledger's line.
        why: What the gate says of it, in its own ledger.
        arrived: Hits of the search in all that came out of the gate.
        found: Whether the search found it past the gate; None where there is no copy to find.
        how: The form in which it found it.
        words: What else is to be said.
    """

    name: str
    caught: bool
    code: int = 0
    line: int = 0
    why: str = ""
    arrived: int = 0
    found: bool | None = None
    how: str = ""
    words: str = ""

    @property
    def holds(self) -> bool:
        """Whether both happened that should."""
        return self.caught and self.found is not False


@dataclass
class Controls:
    """All of them.

    Attributes:
        honest: Whether the honest reply passed: a gate that refuses everything proves nothing.
        tricks: Replies that cheat.
        instructions: Instructions that must not come in.
        hidden: The trick that no gate can catch, tried too.
        exchange: The message that they were made of.
        gate_bytes: All that came out of the gate meanwhile.
        skipped: What was not tried, in words.
    """

    honest: bool = False
    honest_words: str = ""
    tricks: list[Control] = field(default_factory=list)
    instructions: list[Control] = field(default_factory=list)
    hidden: Control | None = None
    exchange: str = ""
    gate_bytes: int = 0
    skipped: list[str] = field(default_factory=list)

    @property
    def hold(self) -> bool:
        """Whether all do."""
        return self.honest and all(c.holds for c in (*self.tricks, *self.instructions))


@dataclass(frozen=True)
class Subject:
    """A message that the policy lets a site answer.

    Attributes:
        study: What the instruction says the study is.
        name: The exchange's.
        exchange: What it carries.
        metrics: Scalars of an honest answer.
    """

    study: Mapping[str, Any]
    name: str
    exchange: Exchange
    metrics: dict[str, float | int]

    @property
    def stage(self) -> str:
        """The stage."""
        return split_name(self.name)[0].partition(".")[2]

    @property
    def bytes(self) -> int:
        """Of an answer's tensors, roughly."""
        return sum(4 * int(np.prod(tensor.shape)) for tensor in self.exchange.up)


def subject_of(policy: Policy, study: Mapping[str, Any] | None = None) -> Subject:
    """The smallest message with weights that a policy lets out.

    Args:
        policy: The site's.
        study: The study, where it is known; else a study that is nothing but its name.

    Raises:
        InputError: If the policy knows no such message.
    """
    found: list[tuple[int, str, str, Exchange]] = []
    for name, manifest in policy.manifests.items():
        if study is not None and study.get("name") != name:
            continue
        for key, exchange in manifest.exchanges.items():
            stage = split_name(key)[0].partition(".")[2]
            sizes = [int(np.prod(t.shape)) for t in exchange.up if t.dtype == "float32"]
            known = all(tensor.dtype in KINDS for tensor in exchange.up)
            roomy = known and exchange.down == exchange.up and max(sizes, default=0) >= ROOM
            if stage in policy.file.stages and roomy and exchange.metrics:
                found.append((sum(sizes), name, key, exchange))
    if not found:
        raise InputError(
            f"the policy of {policy.file.site} lets no message with weights out, so there is "
            "nothing to try; add a study to its [studies] (sonofed gate policy manifest)"
        )
    _, name, key, exchange = min(found, key=lambda each: each[:3])
    stage = split_name(key)[0].partition(".")[2]
    return Subject(
        dict(study or {"name": name}), key, exchange, honest_metrics(exchange, policy, stage)
    )


def shortened(
    policy_file: Path, policy: Policy, subject: Subject, folder: Path, tensors: int = 6
) -> Path:
    """The same policy, but of the study one message with few tensors: a trick takes a second then.

    Args:
        policy_file: The policy.
        policy: The same, read.
        subject: The message.
        folder: Where policy and manifests go.
        tensors: How many of the message's are kept, the largest among them.
    """
    largest = max(subject.exchange.up, key=lambda tensor: int(np.prod(tensor.shape)))
    others = [tensor for tensor in subject.exchange.up if tensor is not largest]
    kept = {id(tensor) for tensor in (*others[: tensors - 1], largest)}
    few = tuple(tensor for tensor in subject.exchange.up if id(tensor) in kept)
    exchange = subject.exchange.model_copy(update={"down": few, "up": few})
    short = Manifest(exchanges={subject.name: exchange})
    folder.mkdir(parents=True, exist_ok=True)
    text = policy_file.read_text(encoding="utf-8")
    for number, (name, entry) in enumerate(policy.file.studies.items()):
        found = short if name == subject.study["name"] else policy.manifests[name]
        place = f"{number}.manifest.json"
        (folder / place).write_text(dump(found), encoding="utf-8")
        # Each stands in the file as it was read; a digest stands there once.
        text = text.replace(entry.sha256, digest(found)).replace(entry.manifest, place)
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def instruction(subject: Subject, policy: Policy, number: int, **changes: Any) -> Message:
    """An instruction as the centre writes them."""
    message, training, step = split_name(subject.name)
    text = json.dumps(subject.study, sort_keys=True, separators=(",", ":"))
    record = {
        "study": text,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "stage": subject.stage,
        "training": training,
        "round": 1,
        "seed": number,
        "step": step,
        **changes,
    }
    arrays = {t.name: _array(t, policy) for t in subject.exchange.down}
    content = RecordDict({"instruction": ConfigRecord(record), "weights": ArrayRecord(arrays)})
    metadata = Metadata(
        run_id=1, message_id="", src_node_id=1, dst_node_id=1, reply_to_message_id="",
        group_id=f"audit/{number}", created_at=time.time(), ttl=3600.0,
        message_type=f"{message.partition('.')[0]}.{record['stage']}",
    )  # fmt: skip
    made: Message = Message(content, metadata=metadata)  # type: ignore[call-overload]
    return made


def _array(tensor: Tensor, policy: Policy) -> Array:
    rng = np.random.default_rng(len(tensor.name))
    if tensor.dtype in ("float32", "float16"):
        return Array((rng.standard_normal(tensor.shape) * 0.05).astype(tensor.dtype))
    if tensor.dtype == "uint16":
        return Array(np.full(tensor.shape, 0x3D00, np.uint16))
    least = int(least_allowed(tensor.name, list(policy.file.integers.items()), 0.0))
    return Array(np.full(tensor.shape, least, tensor.dtype))


def try_gate(
    door: Door,
    policy: Policy,
    policy_file: Path,
    role: str,
    subject: Subject,
    secrets: Callable[[int], Secret],
    searcher: Searcher,
    *,
    trace: bool,
    progress: Progress,
) -> Controls:
    """Every trick through a real gate; see `Controls`.

    Args:
        door: Where the gate lies.
        policy: What it goes by.
        policy_file: Its file.
        role: The site's.
        subject: The message that is answered.
        secrets: What the n-th trick smuggles.
        searcher: For the canaries.
        trace: Have strace write down the gate's connections.
        progress: Called with (done, all).
    """
    made = Controls(exchange=subject.name)
    other = small_bundle("never approved")
    bundles = {sha256(code): code for code in (door.bundle, other)}
    tricks = [*all_tricks(), HIDDEN]
    total = len(tricks) + 4
    site = policy.file.site
    with Sink(door.folder / "sink", bundles, door.certificate) as sink:
        write_site_file(door, site, role, policy_file, sink.address)
        with running_gate(door, trace=trace):
            cheat = Cheat(door.listen, subject.exchange, subject.metrics)
            try:
                record = sink.record("honest")
                cheat.activate(WAIT_S)
                order = _answered(sink, cheat, subject, policy, door, 0, None, secrets(0))[0]
                made.honest = order.answered.is_set() and not order.code
                if not made.honest:
                    made.honest_words = _told(door, order) or "no answer came"
                progress(1, total)
                for number, trick in enumerate(tricks, 1):
                    record = sink.record(f"trick-{number:02d}")
                    order, said = _answered(
                        sink, cheat, subject, policy, door, number, trick, secrets(number)
                    )
                    control = _judged(trick, order, said, record, searcher, door)
                    record.unlink()
                    sink.forget(order)
                    if trick is HIDDEN:
                        made.hidden = control
                    else:
                        made.tricks.append(control)
                    progress(number + 1, total)
                for control in _instructions(sink, cheat, subject, policy, door, other):
                    made.instructions.append(control)
                    progress(len(tricks) + 1 + len(made.instructions), total)
            finally:
                cheat.close()
        made.gate_bytes = sink.bytes
    return made


def _answered(
    sink: Sink,
    cheat: Cheat,
    subject: Subject,
    policy: Policy,
    door: Door,
    number: int,
    trick: Trick | None,
    secret: Secret,
) -> tuple[Order, str]:
    """Have one instruction answered; the order, and what the gate said to the cheat."""
    order = sink.order(instruction(subject, policy, number), sha256(door.bundle))
    asked = cheat.pull(WAIT_S)
    if asked is None:
        return order, "no instruction came"
    said = cheat.reply(asked, trick, secret)
    order.answered.wait(WAIT_S)
    return order, said


def _judged(
    trick: Trick, order: Order, said: str, record: Path, searcher: Searcher, door: Door
) -> Control:
    arrived = searcher.file(record, until=1).count
    line = _line(door, order)
    why = "; ".join(line.event.get("why", [])) if line else ""
    refused = order.code in GATE_ERRORS
    caught = order.answered.is_set() and arrived == 0 and (refused or trick.strips)
    words = said if not order.answered.is_set() else ""
    if refused and line is None:
        caught, words = False, "the ledger does not say so"
    number = line.sequence if line else 0
    return Control(trick.name, caught, order.code, number, why, arrived, words=words)


def _line(door: Door, order: Order) -> Line | None:
    """The ledger's line on a refusal, which the server got as a number."""
    number = order.text.removeprefix("ledger line ")
    if not number.isdigit():
        return None
    return next((line for line in read(door.ledger) if line.sequence == int(number)), None)


def _told(door: Door, order: Order) -> str:
    line = _line(door, order)
    return "; ".join(line.event.get("why", [])) if line else ""


def _instructions(
    sink: Sink, cheat: Cheat, subject: Subject, policy: Policy, door: Door, other: bytes
) -> Iterator[Control]:
    """What a dishonest centre could ask."""
    study = {**subject.study, "steer": {"pixels": True}}
    text = json.dumps(study, sort_keys=True, separators=(",", ":"))
    steered = {"study": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    approved = sha256(door.bundle)
    asked = {
        "code that nobody approved": (sha256(other), {}),
        "a stage that the site takes no part in": (approved, {"stage": "show_images"}),
        "a study key that no rule allows": (approved, steered),
    }
    sink.record("instructions")
    orders = {
        name: sink.order(instruction(subject, policy, number, **changes), bundle)
        for number, (name, (bundle, changes)) in enumerate(asked.items(), 1000)
    }
    # The gate fetches only while a SuperNode waits; nothing may come of it.
    handed = cheat.pull(1.0)
    for name, order in orders.items():
        order.answered.wait(WAIT_S)
        line = _line(door, order)
        caught = handed is None and order.code in GATE_ERRORS and line is not None
        why = "; ".join(line.event.get("why", [])) if line else ""
        words = "" if handed is None else "an instruction was handed to the SuperNode"
        yield Control(name, caught, order.code, line.sequence if line else 0, why, words=words)


def try_search(
    folder: Path,
    policy: Policy,
    subject: Subject,
    secrets: Callable[[int], Secret],
    searcher: Searcher,
    controls: Controls,
    progress: Progress,
) -> None:
    """Every trick once more, past the gate; what the search finds goes into the controls.

    Args:
        folder: Where what arrives is written.
        policy: For the instruction.
        subject: The message that is answered.
        secrets: What the n-th trick smuggles.
        searcher: For the canaries.
        controls: Of `try_gate`.
        progress: Called with (done, all).
    """
    bundle = small_bundle()
    every = [*all_tricks(), HIDDEN]
    results: dict[str, tuple[bool | None, str]] = {}
    with Sink(folder, {sha256(bundle): bundle}) as sink:
        cheat = Cheat(sink.address, subject.exchange, subject.metrics)
        try:
            cheat.activate()
            for number, trick in enumerate(every, 1):
                record = sink.record(f"trick-{number:02d}")
                order = sink.order(instruction(subject, policy, number), sha256(bundle))
                asked = cheat.pull()
                assert asked is not None
                cheat.reply(asked, trick, secrets(number))
                order.answered.wait(WAIT_S)
                if trick.copies:
                    hits = searcher.file(record, until=1).hits
                    how = (
                        f"{hits[0].how}{', in ' + hits[0].within if hits[0].within else ''}"
                        if hits
                        else ""
                    )
                    results[trick.name] = (bool(hits), how)
                record.unlink()
                sink.forget(order)
                progress(number, len(every))
        finally:
            cheat.close()

    def told(control: Control) -> Control:
        found, how = results.get(control.name, (None, ""))
        return replace(control, found=found, how=how)

    controls.tricks = [told(control) for control in controls.tricks]
    if controls.hidden is not None:
        controls.hidden = told(controls.hidden)
