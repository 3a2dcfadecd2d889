"""The gate between a SuperNode and the network: what is known, judged, and on its way.

Both halves share it: `clients/gate/door.py` answers the SuperNode, `clients/gate/courier.py` goes
out. Every decision is here, and on the disk before anything follows from it.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.run_pb2 import Run

from clients.gate.approvals import approved
from clients.gate.arrivals import Arrival, Arrivals, Coming
from clients.gate.book import Book
from clients.gate.facts import RefusedError, TensorFacts
from clients.gate.judging import TurnedAwayError, as_it_leaves, let_in, let_out, turn_away
from clients.gate.objects import HeldArray, Packed, pack
from clients.gate.payload import write_error
from clients.gate.policy import Policy, largest_in
from clients.gate.presence import Presence
from clients.gate.reading import (
    Asked,
    answer_message,
    instruction_message,
    read_answer,
    read_asked,
)
from clients.gate.spool import Exchange, Spool
from clients.gate.upstream import Upstream
from common.errors import InputError
from common.ledger_format import Line
from common.wire.gate import REFUSED_CONTENT, REFUSED_INSTRUCTION, REFUSED_SIZE, UNANSWERED

log = logging.getLogger("sonofed.gate")

MOST_ATTEMPTS = 10
"""How often one instruction is handed down before the server is told that no answer comes."""
MOST_CRASHES = 3
"""How often the site's code may be killed at one instruction: a kernel short of memory does so each
time, and each may be hours of work."""
AGAIN_S = 10.0
"""Between attempts to write what could not be written."""
SLACK = 16 * 2**20
"""Bytes of heads and names that a message may have beside its payload."""


class Gate:
    """Everything between the two halves.

    Args:
        folder: The gate's own; approvals lie there.
        policy: The site's.
        upstream: The way out.
        spool: Its memory on the disk.
        book: The site's ledger.
    """

    def __init__(
        self, folder: Path, policy: Policy, upstream: Upstream, spool: Spool, book: Book
    ) -> None:
        self.folder = folder
        self.policy = policy
        self.upstream = upstream
        self.spool = spool
        self.book = book
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self.presence = Presence()
        self.started = time.monotonic()
        self.checker = ThreadPoolExecutor(1, thread_name_prefix="checker")
        self.syncer = ThreadPoolExecutor(1, thread_name_prefix="syncer")
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._asked: dict[str, Asked] = {}
        self.arrivals = Arrivals(spool, self._measured, self.changed)
        self._old = frozenset(spool.exchanges)
        self.most_in = largest_in(policy) + SLACK
        if book.policy_in_force() != policy.file.digest:
            book.policy(policy)

    def close(self) -> None:
        """End what works beside; what was not judged is judged after the next start."""
        for pool in (self.checker, self.syncer):
            pool.shutdown(wait=True, cancel_futures=True)

    # Where things stand.

    def standing(self, *steps: str) -> list[Exchange]:
        """Exchanges at some steps, oldest first."""
        with self.changed:
            found = list(self.spool.exchanges.values())
        return [exchange for exchange in found if exchange.standing.step in steps]

    def move(self, exchange: Exchange, **changes: object) -> None:
        """Change where one stands, and tell whoever waits for it."""
        with self.changed:
            exchange.stand(**changes)
            self.changed.notify_all()

    def end(self, exchange: Exchange) -> None:
        """One is over."""
        with self.changed:
            self.spool.end(exchange)
            self._asked.pop(exchange.id, None)
            self.arrivals.forget(exchange)
            self.changed.notify_all()

    def heard(self) -> None:
        """The SuperNode said something."""
        with self.changed:
            was = self.presence.here
            self.presence.heard = self.presence.last = time.monotonic()
            if not was:
                self.changed.notify_all()

    def gone(self) -> None:
        """The SuperNode took its leave."""
        with self.changed:
            self.presence.heard = 0.0

    # Instructions.

    def admit(
        self, exchange: Exchange, run: Run, early: Mapping[str, TensorFacts] | None = None
    ) -> None:
        """An instruction is all here: judge it.

        Args:
            exchange: Whose.
            run: The run that it belongs to.
            early: Of tensors that were read while others came, by id.

        Raises:
            LedgerError: If nothing can be written down.
        """
        try:
            asked = self.asked(exchange, run.fab_hash, early)
            line = self._let_in(exchange, asked)
        except TurnedAwayError as away:
            self._leave(exchange, away)
            return
        except RefusedError as error:
            self.refuse(exchange, "in", error.code, error.words)
            return
        except (InputError, OSError) as error:
            if type(error) is not InputError:
                raise
            # The approvals are not to be trusted, so nothing is approved.
            self.refuse(exchange, "in", REFUSED_INSTRUCTION, "; ".join(error.problems))
            return
        except Exception as error:
            # Whatever a server sends, no instruction may keep out those that come after it.
            log.exception("an instruction could not be judged")
            words = f"it could not be judged ({type(error).__name__})"
            self.refuse(exchange, "in", REFUSED_INSTRUCTION, words)
            return
        down = asked.handed_down()
        for name, content in down.objects.items():
            exchange.asked.put(name, content)
        exchange.write("down", _pulled(down))
        root = down.tree.object_id
        log.info("%s: may come in, ledger line %d", _named(asked), line.sequence)
        self.move(exchange, step="open", came=line.sequence, down=root)

    def _let_in(self, exchange: Exchange, asked: Asked) -> Line:
        """Its line in the ledger, which may stand there since before a restart."""
        old = exchange.id in self._old
        with self._writing:
            line = self.book.find(["instruction"], id=exchange.id) if old else None
            if line is not None:
                return line
            receipt = asked.receipt
            if old and self.book.find(["receipt"], line=receipt) is not None:
                receipt = ""
            return let_in(self.book, self._policy_now(), asked.facts, receipt, exchange.id)

    def _policy_now(self) -> Policy:
        return replace(self.policy, approved=self.policy.approved | approved(self.folder))

    def asked(
        self,
        exchange: Exchange,
        bundle: str = "",
        early: Mapping[str, TensorFacts] | None = None,
    ) -> Asked:
        """What an instruction asks, read once."""
        with self._reading:
            found = self._asked.get(exchange.id)
            if found is None:
                run = self.spool.run(instruction_message(exchange).metadata.run_id)
                bundle = bundle or (run.fab_hash if run is not None else "")
                found = read_asked(exchange, bundle, self.spool.node_id, early)
                self._asked[exchange.id] = found
            return found

    def wants_update(self, asked: Asked) -> bool:
        """Whether a reply is measured against the weights that came."""
        return self.policy.wants_update(asked.facts.stage)

    def _measured(self, exchange: Exchange) -> Mapping[str, HeldArray]:
        """The weights that the exchange's reply is measured against."""
        asked = self.asked(exchange)
        return asked.arrays if self.wants_update(asked) else {}

    # Replies.

    def take(self, arrival: Arrival, name: str, content: bytes) -> None:
        """An object of a reply.

        Raises:
            RefusedError: If it is none of the reply's, or the reply has too many bytes.
            OSError: If it cannot be kept.
        """
        asked = self.asked(arrival.exchange)
        rules = self.policy.file.stages.get(asked.facts.stage)
        most = rules.message_mb if rules is not None else None
        limit = (most or self.policy.file.limits.message_mb) * 1e6 + SLACK
        if arrival.bytes + len(content) > limit:
            words = f"more than {limit / 1e6:.0f} MB came"
            raise RefusedError(REFUSED_SIZE, words)
        more = arrival.take(name, content)
        if not arrival.missing:
            self.complete(arrival)
            return
        self.read_early(arrival, more)

    def read_early(self, coming: Coming, more: int) -> None:
        """Read tensors, and have them on the disk, while others still come."""
        for _ in range(more):
            self.checker.submit(coming.read_next)
        if more:
            self.syncer.submit(coming.shelf.sync)

    def complete(self, arrival: Arrival) -> None:
        """A reply is all here: judge it, behind whatever is being read."""
        if not self._is_open(arrival):
            return
        arrival.exchange.asked.sync()
        arrival.exchange.reply.sync()
        with self.changed:
            if not self._is_open(arrival):
                return
            self.move(arrival.exchange, step="judging")
        self.checker.submit(self._settle, arrival)

    def _is_open(self, arrival: Arrival) -> bool:
        """Whether it waits for its verdict; one that was forgiven is none any more."""
        with self.changed:
            return (
                arrival in self.arrivals.of(arrival.exchange)
                and arrival.exchange.standing.step == "open"
            )

    def settle_old(self) -> None:
        """Replies that were all here when the gate was stopped."""
        for exchange in self.standing("judging", "open"):
            request = exchange.pushed("reply")
            if request is not None:
                arrival = self.arrivals.find(request.message_object_trees[0].object_id)
                if arrival is not None and not arrival.missing:
                    if exchange.standing.step == "open":
                        self.complete(arrival)
                    else:
                        self.checker.submit(self._settle, arrival)

    def _settle(self, arrival: Arrival) -> None:
        """Judge a reply until the ledger could be written: till then nothing leaves."""
        self._until_written(arrival.exchange, lambda: self._judge(arrival))
        arrival.finished.set()

    def _until_written(self, exchange: Exchange, decide: Callable[[], object]) -> None:
        while not self.stopping.is_set():
            try:
                decide()
                return
            except (InputError, OSError) as error:
                log.error("nothing leaves until this is mended: %s", error)
                self.stopping.wait(AGAIN_S)
            except Exception as error:
                # A fault of the gate's own must not keep the server waiting, nor let anything out.
                log.exception("a reply could not be judged")
                words = f"it could not be judged ({type(error).__name__})"
                decide = partial(self.refuse, exchange, "out", REFUSED_CONTENT, words)

    def _judge(self, arrival: Arrival) -> None:
        exchange = arrival.exchange
        if exchange.standing.step != "judging":
            return
        asked = self.asked(exchange)
        came = exchange.standing.came
        try:
            answer = read_answer(arrival, asked, update=self.wants_update(asked))
        except RefusedError as error:
            self.refuse(exchange, "out", error.code, error.words)
            return
        if answer.facts.error == ErrorCode.CLIENT_APP_CRASHED and self._forgive(exchange):
            return
        try:
            with self._writing:
                old = exchange.id in self._old
                line = self.book.find(["reply", "error"], instruction=came) if old else None
                sent = self.book.sent_today() if line is None else 0
                if line is None:
                    line, facts = let_out(
                        self.book, self._policy_now(), asked.facts, answer.facts, came,
                        sent_today=sent,
                    )  # fmt: skip
                else:
                    facts = as_it_leaves(self.policy, asked.facts, answer.facts)
                letter = self.book.letter(line)
        except TurnedAwayError as away:
            self._leave(exchange, away)
            return
        log.info("%s: may leave, ledger line %d", _named(asked), line.sequence)
        self._put_out(exchange, answer_message(asked.message, answer, facts, letter))

    def _forgive(self, exchange: Exchange) -> bool:
        """The SuperNode says that the site's code was killed: it is given the instruction again."""
        crashed = exchange.standing.crashed + 1
        if crashed >= MOST_CRASHES:
            return False
        log.warning("%s: the site's code was killed at work; handed down again", exchange.id[:12])
        with self.changed:
            # Open first: a gate that is killed here finds the same answer again, and no hole.
            self.move(exchange, step="open", crashed=crashed)
            self.arrivals.forget(exchange)
            exchange.forget_reply()
        return True

    def refuse(self, exchange: Exchange, way: str, code: int, words: str) -> str:
        """Write down that something does not pass, and have the server told the code.

        Returns:
            What may be said of it: the ledger's line.

        Raises:
            LedgerError: If it cannot be written down; then nobody is told.
        """
        with self.changed:
            if exchange.standing.step == "leaving":
                return "already answered"
            known = self._asked.get(exchange.id)
            with self._writing:
                facts = known.facts if known else None
                away = turn_away(self.book, way, code, (words,), facts, exchange.id)
            return self._leave(exchange, away)

    def note_undelivered(self, exchange: Exchange, why: str) -> None:
        """The server did not take an answer: the ledger says so, since its line says it left."""
        with self._writing:
            self.book.undelivered(exchange.standing.came, why)

    def give_up(self, exchange: Exchange) -> None:
        """The site's code was asked often enough, and never answered."""
        words = f"handed down {exchange.standing.handed} times, and no answer came"
        self.refuse(exchange, "out", UNANSWERED, words)

    def _leave(self, exchange: Exchange, away: TurnedAwayError) -> str:
        log.error("%s: refused, %s: %s", exchange.id[:12], away.told, away)
        for arrival in self.arrivals.of(exchange):
            arrival.refused = away.told
        message = instruction_message(exchange)
        self._put_out(exchange, pack(write_error(message, away.code, away.told), {}))
        return away.told

    def _put_out(self, exchange: Exchange, packed: Packed) -> None:
        for name, content in packed.objects.items():
            exchange.reply.put(name, content)
        exchange.reply.sync()
        out = PushMessagesRequest(
            messages_list=[message_to_proto(packed.message)],
            message_object_trees=[packed.tree],
        )
        exchange.write("out", out)
        self.move(exchange, step="leaving")


def _named(asked: Asked) -> str:
    return f"{asked.facts.exchange}, round {asked.facts.round}"


def _pulled(packed: Packed) -> PullMessagesResponse:
    return PullMessagesResponse(
        messages_list=[message_to_proto(packed.message)], message_object_trees=[packed.tree]
    )
