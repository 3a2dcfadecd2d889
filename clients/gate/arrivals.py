"""Messages that come in object by object: each tensor is read as soon as it is all here."""

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import takewhile

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree

from clients.gate.disk import Shelf, is_id
from clients.gate.facts import RefusedError, TensorFacts
from clients.gate.objects import HeldArray, open_array, read_held, tree_ids
from clients.gate.spool import Exchange, Spool
from clients.gate.tensors import refused
from common.wire.gate import REFUSED_SIZE


class Coming:
    """The objects of one message, some of which are here.

    Args:
        tree: Of all of them.
        shelf: Where they go.
        most: Bytes that all of them may have.
    """

    def __init__(self, tree: ObjectTree, shelf: Shelf, most: float = math.inf) -> None:
        self.root: str = tree.object_id
        self.ids = tree_ids(tree)
        self.known = frozenset(self.ids)
        self.shelf = shelf
        self.most = most
        self.missing = {name for name in self.ids if name not in shelf}
        self.bytes = shelf.bytes()
        self.read: dict[str, TensorFacts] = {}
        """What was read of tensors, by the id of each."""
        self._lock = threading.Lock()
        self._waiting: dict[str, set[str]] = {}
        """Of tensors that may not be read yet, in their order, what is missing."""
        self._ready: deque[str] = deque()
        self._below: dict[str, list[str]] = {}
        for node in _tensor_nodes(tree):
            whole = {node.object_id, *(child.object_id for child in node.children)}
            self._waiting[node.object_id] = whole & self.missing
            for name in whole:
                self._below.setdefault(name, []).append(node.object_id)

    def take(self, name: str, content: bytes) -> int:
        """Keep an object.

        Returns:
            How many tensors more may be read: those that are all here, as are all before them.

        Raises:
            RefusedError: If it was not announced, is not what its id says, or is one too many.
        """
        if name not in self.known:
            raise refused("an object belongs to nothing")
        if self.bytes + len(content) > self.most:
            raise RefusedError(REFUSED_SIZE, f"more than {self.most / 1e6:.0f} MB came")
        if name in self.missing:
            self.shelf.put(name, content)
        with self._lock:
            if name not in self.missing:
                return 0
            self.missing.discard(name)
            self.bytes += len(content)
            for tensor in self._below.get(name, []):
                self._waiting[tensor].discard(name)
            whole = list(takewhile(lambda tensor: not self._waiting[tensor], self._waiting))
            for tensor in whole:
                del self._waiting[tensor]
            self._ready.extend(whole)
            return len(whole)

    def read_next(self) -> None:
        """Read the next tensor while others still come.

        What is wrong with it is found again later, and said then.
        """
        tensor = self._ready.popleft()
        try:
            self.read[tensor] = self._facts(open_array(tensor, self.shelf))
        except (RefusedError, OSError):
            return

    def _facts(self, held: HeldArray) -> TensorFacts:
        return read_held("?", held, self.shelf)


class Arrival(Coming):
    """A reply.

    Args:
        exchange: Whose.
        request: What the SuperNode announced; it is in the spool.
        came: The instruction's weights, where the reply's are measured against them.
    """

    def __init__(
        self, exchange: Exchange, request: PushMessagesRequest, came: Mapping[str, HeldArray]
    ) -> None:
        super().__init__(request.message_object_trees[0], exchange.reply)
        self.exchange = exchange
        self.came = came
        self.finished = threading.Event()
        self.refused = ""
        self._next = 0

    @property
    def session(self) -> str:
        """What it is called at the door; the same after a restart."""
        return self.root

    def _facts(self, held: HeldArray) -> TensorFacts:
        """A tensor's facts against the one that came, whose name is not known yet but guessed.

        Tensors come in their order, each distinct one once: those that are passed over are alike.
        """
        names = list(self.came)
        for place in range(self._next, len(names)):
            if self.came[names[place]].told == held.told:
                self._next = place + 1
                name = names[place]
                asked = self.exchange.asked
                return read_held(name, held, self.shelf, self.came[name], asked)
        return super()._facts(held)


class Arrivals:
    """The replies on their way in.

    Args:
        spool: What was announced before a restart lies there.
        measured: Gives the weights that an exchange's reply is measured against.
        lock: The gate's, which may be held already.
    """

    def __init__(
        self,
        spool: Spool,
        measured: Callable[[Exchange], Mapping[str, HeldArray]],
        lock: AbstractContextManager[object],
    ) -> None:
        self._spool = spool
        self._measured = measured
        self._lock = lock
        self._known: dict[str, Arrival] = {}

    def announce(self, exchange: Exchange, request: PushMessagesRequest) -> Arrival:
        """The SuperNode has a reply; a later one takes the place of one that was cut short."""
        root = request.message_object_trees[0].object_id
        with self._lock:
            found = self._known.get(root)
            if found is None:
                before = exchange.pushed("reply")
                if before is None or before.message_object_trees[0].object_id != root:
                    exchange.forget_reply()
                    exchange.write("reply", request)
                found = self._remember(exchange, request)
            return found

    def find(self, session: str) -> Arrival | None:
        """A reply that was announced, even before a restart."""
        with self._lock:
            if session in self._known:
                return self._known[session]
            for exchange in self._spool.exchanges.values():
                request = exchange.pushed("reply")
                if request and request.message_object_trees[0].object_id == session:
                    return self._remember(exchange, request)
        return None

    def of(self, exchange: Exchange) -> list[Arrival]:
        """Those of one exchange."""
        with self._lock:
            return [arrival for arrival in self._known.values() if arrival.exchange is exchange]

    def forget(self, exchange: Exchange) -> None:
        """The exchange is over, or begins anew."""
        with self._lock:
            for arrival in self.of(exchange):
                del self._known[arrival.session]

    def _remember(self, exchange: Exchange, request: PushMessagesRequest) -> Arrival:
        arrival = Arrival(exchange, request, self._measured(exchange))
        self._known[arrival.session] = arrival
        return arrival


def _tensor_nodes(tree: ObjectTree) -> list[ObjectTree]:
    """The tensors in a message's tree: message, dictionary, record, tensor, chunks."""
    found = {
        node.object_id: node
        for content in tree.children
        for record in content.children
        for node in record.children
    }
    return list(found.values())


def check_tree(tree: ObjectTree) -> None:
    """Whether a tree is one that a message can have.

    Raises:
        RefusedError: If not.
    """
    level, depth = [tree], 0
    while level:
        if depth > 4 or any(not is_id(node.object_id) for node in level):
            raise refused("its tree of objects is none")
        level, depth = [child for node in level for child in node.children], depth + 1
