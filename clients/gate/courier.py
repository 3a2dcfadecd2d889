"""The half of the gate that goes out: it keeps the node known, fetches instructions, sends replies.

Each on a thread of its own, so that a heartbeat never waits for a gigabyte. What fails is tried
again; what is on its way survives a restart.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.run_pb2 import Run
from flwr.supercore.constant import TaskType

from clients.gate.arrivals import Coming, check_tree
from clients.gate.disk import is_id
from clients.gate.facts import RefusedError
from clients.gate.gate import Gate
from clients.gate.objects import object_id, tree_ids
from clients.gate.reading import instruction_message
from clients.gate.spool import Exchange
from clients.gate.upstream import RunOverError, UpstreamError
from common.errors import InputError
from common.wire.gate import REFUSED_SIZE

log = logging.getLogger("sonofed.gate")

HEARTBEAT_S = 20.0
POLL_S = 1.0
LONGEST_PAUSE_S = 30.0
AT_ONCE, AT_MOST = 2, 4
"""Objects in flight, and on a line that has shown that it is quick: with more, each takes longer
than the other side waits on a thin one."""
UNKNOWN = "expired, answered already, or unknown to the server"
QUICK_BPS = 20e6
"""Bits a second of such a line."""
WAITS_FOR_SUPERNODE_S = 900.0
"""How long an unanswered instruction keeps the node known while its SuperNode is away."""


class Courier:
    """The three threads.

    Args:
        gate: What they share with the door.
        heartbeat_s: Between heartbeats.
        poll_s: Between looks for an instruction.
    """

    def __init__(
        self, gate: Gate, *, heartbeat_s: float = HEARTBEAT_S, poll_s: float = POLL_S
    ) -> None:
        self.gate = gate
        self.heartbeat_s = heartbeat_s
        self.poll_s = poll_s
        self.known = False
        self.beaten = threading.Event()
        self._knowing = threading.Lock()
        self._confirming = threading.Lock()
        self._at_once = AT_ONCE
        self._threads = [
            threading.Thread(target=self._run, args=(name, step), name=name, daemon=True)
            for name, step in self._steps().items()
        ]

    def _steps(self) -> dict[str, Callable[[], float]]:
        return {
            "heartbeat": self._heartbeat,
            "intake": self._intake,
            "sender": self._send_next,
        }

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; where nothing is under way the server is told that the node goes."""
        self.gate.stopping.set()
        with self.gate.changed:
            self.gate.changed.notify_all()
        self.beaten.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self.take_leave()

    def take_leave(self) -> None:
        """Tell the server that the node goes, unless it still waits for an answer."""
        node_id = self.gate.spool.node_id
        if not self.known or node_id is None or self.gate.spool.exchanges:
            return
        try:
            self.gate.upstream.deactivate(node_id)
        except UpstreamError as error:
            log.info("the server was not told that the node goes: %s", error)
        self.known = False

    def _run(self, name: str, step: Callable[[], float]) -> None:
        """Repeat a step; it gives the seconds to wait before the next."""
        tries = 0
        while not self.gate.stopping.is_set():
            try:
                pause, tries = step(), 0
            except UpstreamError as error:
                tries += 1
                pause = min(LONGEST_PAUSE_S, 0.5 * 2.0 ** min(tries, 10)) * random.uniform(0.8, 1)
                log.warning("%s: %s; again in %.0f s", name, error, pause)
                if error.status == 401:
                    self._forget()
            except (InputError, OSError) as error:
                pause = 10.0
                log.error("%s: %s; again in %.0f s", name, error, pause)
            except Exception:
                pause = LONGEST_PAUSE_S
                log.exception("%s: again in %.0f s", name, pause)
            if pause:
                self._wait(name, pause)

    def _wait(self, name: str, pause: float) -> None:
        if name == "heartbeat":
            self.beaten.wait(pause)
            self.beaten.clear()
        else:
            with self.gate.changed:
                if not self.gate.stopping.is_set():
                    self.gate.changed.wait(pause)

    # The node.

    def make_known(self) -> int:
        """Have the server know the node; gives its id.

        Raises:
            UpstreamError: If it does not.
        """
        with self._knowing:
            spool, upstream = self.gate.spool, self.gate.upstream
            node_id = spool.node_id
            if self.known and node_id is not None:
                return node_id
            # A heartbeat is enough for a node that the server knows; it refuses to activate one
            # that it thinks is there, as after a crash.
            if node_id is None or not self._is_known(node_id):
                node_id = upstream.activate()
                spool.node_id = node_id
            self.known = True
            return node_id

    def _is_known(self, node_id: int) -> bool:
        try:
            return self.gate.upstream.heartbeat(node_id)
        except UpstreamError as error:
            if error.status == 401:
                return False
            raise

    def _forget(self) -> None:
        with self._knowing:
            self.known = False

    def _wanted(self) -> bool:
        presence = self.gate.presence
        if presence.here or self.gate.standing("judging", "leaving"):
            return True
        since = time.monotonic() - max(presence.last, self.gate.started)
        return bool(self.gate.spool.exchanges) and since < WAITS_FOR_SUPERNODE_S

    def _heartbeat(self) -> float:
        if not self._wanted():
            return 1.0
        node_id = self.make_known()
        if not self.gate.upstream.heartbeat(node_id):
            self._forget()
            return 1.0
        return self.heartbeat_s * random.uniform(0.9, 1.1)

    # Instructions.

    def _intake(self) -> float:
        for old in self.gate.standing("fetching"):
            self._fetch(old)
        for old in self.gate.standing("open"):
            try:
                self._confirm(old)
            except RunOverError as error:
                self._drop(old, error)
        if not self.gate.presence.here or self.gate.standing("fetching", "open"):
            return 5.0
        pulled = self.gate.upstream.pull(self.make_known())
        if not pulled.messages_list:
            return self.poll_s
        exchange = self._begin(pulled)
        if exchange is not None and exchange.standing.step == "fetching":
            self._fetch(exchange)
            return 0.0
        # Given once more, since the server has not heard yet that it is here; its answer says so.
        return self.poll_s

    def _begin(self, pulled: PullMessagesResponse) -> Exchange | None:
        try:
            (message,), (tree,) = pulled.messages_list, pulled.message_object_trees
            check_tree(tree)
            metadata_from_proto(message.metadata)
        except (ValueError, RefusedError) as error:
            log.error("the server sent what is no instruction: %s", error)
            return None
        with self.gate.changed:
            known = self.gate.spool.exchanges.get(tree.object_id)
            return known or self.gate.spool.begin(tree.object_id, pulled)

    def _fetch(self, exchange: Exchange) -> None:
        """All of an instruction, the run and the code that it belongs to; then it is judged."""
        node_id = self.make_known()
        tree = exchange.pulled("asked").message_object_trees[0]
        run_id = instruction_message(exchange).metadata.run_id
        try:
            run = self._run_of(node_id, run_id)
            coming = Coming(tree, exchange.asked, self.gate.most_in)
            missing = [name for name in coming.ids if name in coming.missing]
            self._each(missing, lambda name: self._fetch_object(coming, node_id, run_id, name))
        except RunOverError as error:
            self._drop(exchange, error)
            return
        except RefusedError as error:
            self.gate.refuse(exchange, "in", error.code, error.words)
            return
        # Whatever is still being read comes first; the rest is read then.
        self.gate.checker.submit(lambda: None).result()
        self.gate.admit(exchange, run, coming.read)

    def _drop(self, exchange: Exchange, why: RunOverError) -> None:
        log.warning("%s: dropped: %s", exchange.id[:12], why)
        self.gate.end(exchange)

    def _confirm(self, exchange: Exchange) -> None:
        """The server may forget an instruction: all of it is on the disk here.

        It takes its time over that, and the SuperNode need not wait for it.

        Raises:
            RunOverError: If nobody wants its answer.
        """
        with self._confirming:
            if exchange.standing.confirmed:
                return
            exchange.asked.sync()
            run_id = instruction_message(exchange).metadata.run_id
            self.gate.upstream.confirm(self.make_known(), run_id, exchange.id)
            self.gate.move(exchange, confirmed=True)

    def _run_of(self, node_id: int, run_id: int) -> Run:
        """The run, its code beside it. Of what the server says, only what the SuperNode needs."""
        spool, upstream = self.gate.spool, self.gate.upstream
        run = spool.run(run_id)
        if run is None:
            told = upstream.run(node_id, run_id)
            # Overrides of the app's settings are not covered by the bundle's hash: none pass.
            run = Run(
                run_id=run_id,
                fab_id=told.fab_id,
                fab_version=told.fab_version,
                fab_hash=told.fab_hash,
                primary_task_type=TaskType.SERVER_APP,
                series_id=told.series_id,
            )
        if not is_id(run.fab_hash) or spool.bundle(run.fab_hash) is None:
            content = upstream.bundle(node_id, run_id, run.fab_hash)
            run.fab_hash = object_id(content)
            spool.keep_bundle(run.fab_hash, content)
        spool.keep_run(run)
        return run

    def _fetch_object(self, coming: Coming, node_id: int, run_id: int, name: str) -> int:
        pause = 0.2
        while not self.gate.stopping.is_set():
            content = self.gate.upstream.pull_object(node_id, run_id, name)
            if content is not None:
                try:
                    more = coming.take(name, content)
                except RefusedError as error:
                    if error.code == REFUSED_SIZE:
                        raise
                    # Broken on its way, it is asked for again.
                    raise UpstreamError(error.words) from None
                self.gate.read_early(coming, more)
                return len(content)
            self.gate.stopping.wait(pause)
            pause = min(LONGEST_PAUSE_S, 2 * pause)
        raise UpstreamError("stopped")

    def _each(self, names: list[str], do: Callable[[str], int]) -> None:
        """Do something with each of many objects, few at once; the first error ends it.

        Args:
            names: Theirs.
            do: What; it gives the bytes that went over the line.
        """
        began, at_once, self._at_once = time.monotonic(), self._at_once, AT_ONCE
        with ThreadPoolExecutor(at_once) as pool:
            waiting = [pool.submit(do, name) for name in names]
            try:
                size = sum(future.result() for future in waiting)
            finally:
                for future in waiting:
                    future.cancel()
        if size < CHUNK:
            self._at_once = at_once  # too little to tell
        elif 8 * size > QUICK_BPS * (time.monotonic() - began):
            self._at_once = AT_MOST

    # Replies.

    def _send_next(self) -> float:
        leaving = self.gate.standing("leaving")
        if not leaving:
            return 5.0
        self._send(leaving[0])
        return 0.0

    def _send(self, exchange: Exchange) -> None:
        """Everything that the server lacks of a reply, until it has it or wants it no more."""
        out = exchange.pushed("out")
        assert out is not None
        node_id = self.make_known()
        try:
            self._confirm(exchange)
            self._push(exchange, node_id, out)
        except RunOverError as error:
            self._not_taken(exchange, str(error))
        except UpstreamError:
            metadata = out.messages_list[0].metadata
            if metadata.created_at + metadata.ttl > time.time():
                raise
            self._not_taken(exchange, "its time is over")

    def _push(self, exchange: Exchange, node_id: int, out: PushMessagesRequest) -> None:
        tree = out.message_object_trees[0]
        run_id = out.messages_list[0].metadata.run_id
        answer = self.gate.upstream.push(node_id, out)
        wanted = set(answer.objects_to_push)
        if tree.object_id in wanted:
            if not exchange.standing.stored:
                self.gate.move(exchange, stored=True)
        elif not exchange.standing.given:
            # 200 and nothing wanted: so it says that it does not take the reply. That it has all of
            # it already is said in the same way, but then the last object was on its way before.
            why = "given up by the server half-way" if exchange.standing.stored else UNKNOWN
            self._not_taken(exchange, why)
            return

        def push(name: str) -> int:
            content = exchange.reply.get(name)
            if object_id(content) != name:
                raise InputError(f"{exchange.reply.folder / name}: was changed on the disk")
            if not self.gate.upstream.push_object(
                node_id, run_id, answer.session_id, name, content
            ):
                raise UpstreamError("push-object: the server did not store it")
            return len(content)

        names = [name for name in tree_ids(tree) if name in wanted]
        self._each([name for name in names if name != tree.object_id], push)
        for name in names[-1:]:
            self.gate.move(exchange, given=True)
            push(name)
        log.info("%s: the server has the answer", exchange.id[:12])
        self.gate.end(exchange)

    def _not_taken(self, exchange: Exchange, why: str) -> None:
        log.error("%s: the server did not take the answer: %s", exchange.id[:12], why)
        self.gate.note_undelivered(exchange, why)
        self.gate.end(exchange)
