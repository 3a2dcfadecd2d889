"""Positive controls: each trick through a gate, and past it. What never fails proves nothing.

Through the gate nothing of a canary may arrive. Past it, in clear, the search must find what the
trick carries, or a search that finds nothing elsewhere would mean nothing.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from clients.gate.policy import Policy
from common.ledger_check import read
from common.ledger_format import Line
from common.wire.gate import GATE_ERRORS
from scripts.audit.cheat import Cheat
from scripts.audit.door import Door, running_gate, small_bundle, write_site_file
from scripts.audit.invented import breaking
from scripts.audit.search import Searcher
from scripts.audit.sink import Order, Sink, sha256
from scripts.audit.subject import Subject, instruction
from scripts.audit.tricks import HIDDEN, Secret, Trick, all_tricks

WAIT_S = 120.0
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
    tricks = [trick for trick in (*all_tricks(), HIDDEN) if not trick.senseless(subject.exchange)]
    made.skipped = [
        f"{trick.name}: {words}"
        for trick in all_tricks()
        if (words := trick.senseless(subject.exchange))
    ]
    total = len(tricks) + 1 + len(_asked(subject, policy, door, other))
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
    asked = _asked(subject, policy, door, other)
    sink.record("instructions")
    orders = {
        name: sink.order(instruction(subject, policy, number, **changes), bundle)
        for number, (name, (bundle, changes)) in enumerate(asked.items(), 1000)
    }
    # The gate fetches only while a SuperNode waits; nothing may come of it.
    handed, end = None, time.monotonic() + WAIT_S
    while handed is None and time.monotonic() < end:
        if all(order.answered.is_set() for order in orders.values()):
            break
        handed = cheat.pull(1.0)
    for name, order in orders.items():
        line = _line(door, order)
        caught = handed is None and order.code in GATE_ERRORS and line is not None
        why = "; ".join(line.event.get("why", [])) if line else ""
        words = "" if handed is None else "an instruction was handed to the SuperNode"
        yield Control(name, caught, order.code, line.sequence if line else 0, why, words=words)


def _asked(
    subject: Subject, policy: Policy, door: Door, other: bytes
) -> dict[str, tuple[str, dict[str, str]]]:
    """Instructions that must not come in: the code's digest, and what is changed, by name."""
    approved = sha256(door.bundle)
    steered = {
        "a study key that no rule allows": {**subject.study, "steer": {"pixels": True}},
        **dict(breaking(policy.file.study, subject.study, subject.stage)),
    }
    made: dict[str, tuple[str, dict[str, str]]] = {
        "code that nobody approved": (sha256(other), {}),
        "a stage that the site takes no part in": (approved, {"stage": "show_images"}),
    }
    for name, study in steered.items():
        spoilt = replace(subject, study=study)
        made[name] = (approved, {"study": spoilt.text, "sha256": spoilt.digest})
    return made


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
    every = [trick for trick in (*all_tricks(), HIDDEN) if not trick.senseless(subject.exchange)]
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
