"""The half of the gate that faces the SuperNode: an answer to each call of Flower's Fleet API.

Nothing that the SuperNode sends goes further than here, but what `Gate` has judged. What a status
means to a SuperNode: 401 stops it, 422 fails one reply, 502 to 504 are tried again for ever.
"""

import logging
import time
from collections.abc import Callable

from flwr.proto.fab_pb2 import Fab, GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
    RegisterNodeFleetRequest,
    RegisterNodeFleetResponse,
    UnregisterNodeFleetRequest,
    UnregisterNodeFleetResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from google.protobuf.message import Message

from clients.gate.arrivals import Arrival, check_tree
from clients.gate.courier import Courier
from clients.gate.disk import is_id
from clients.gate.facts import RefusedError
from clients.gate.gate import MOST_ATTEMPTS, Gate
from clients.gate.reading import instruction_message
from clients.gate.spool import Exchange
from clients.gate.upstream import UpstreamError
from common.errors import InputError
from common.wire.gate import REFUSED_CONTENT

log = logging.getLogger("sonofed.gate")

HOLD_S = 15.0
"""How long a SuperNode that asks for an instruction, or for a verdict, is kept waiting at most: its
own patience is 30 s, a heartbeat's 5 s."""


class TurnedDownError(Exception):
    """A call that is answered with a status other than 200.

    Args:
        status: HTTP's.
        reason: One line, which the SuperNode's log shows.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


class Door:
    """Answers to a SuperNode's calls.

    Args:
        gate: What is known.
        courier: The other half.
        hold_s: See `HOLD_S`.
    """

    def __init__(self, gate: Gate, courier: Courier, *, hold_s: float = HOLD_S) -> None:
        self.gate = gate
        self.courier = courier
        self.hold_s = hold_s
        self._given = ""

    def answer(self, request: Message, *, clean: bool) -> Message:
        """What a call is answered.

        Args:
            request: Of one of `ROUTES`.
            clean: Whether its bytes hold nothing but the fields that are known, each once.

        Raises:
            TurnedDownError: If there is no answer.
        """
        if not clean and not isinstance(request, (PushMessagesRequest, PushObjectRequest)):
            raise TurnedDownError(400, "fields that this gate does not know")
        call = _CALLS[type(request)]
        try:
            return call(self, request, clean)
        except RefusedError as error:
            raise TurnedDownError(422, "refused") from error
        except InputError as error:
            # The ledger, mostly: what cannot be written down does not happen.
            raise TurnedDownError(503, "the gate cannot write") from error
        except OSError as error:
            raise TurnedDownError(503, "the gate cannot write") from error

    def _check_node(self, node_id: int) -> None:
        if node_id != self.gate.spool.node_id:
            raise TurnedDownError(401, "another node")
        self.gate.heard()

    # Coming and going.

    def _register(self, request: RegisterNodeFleetRequest, _: bool) -> RegisterNodeFleetResponse:
        """A SuperNode without a key of the consortium: the gate has that one."""
        return RegisterNodeFleetResponse(node_id=self.gate.spool.node_id or 0)

    def _activate(self, request: ActivateNodeRequest, _: bool) -> ActivateNodeResponse:
        try:
            node_id = self.courier.make_known()
        except UpstreamError as error:
            log.warning("the server does not know this node yet: %s", error)
            raise TurnedDownError(503, "the server does not answer") from error
        self._given = ""
        self.gate.heard()
        return ActivateNodeResponse(node_id=node_id)

    def _deactivate(self, request: DeactivateNodeRequest, _: bool) -> DeactivateNodeResponse:
        self._check_node(request.node_id)
        self.gate.gone()
        self.courier.take_leave()
        return DeactivateNodeResponse()

    def _unregister(
        self, request: UnregisterNodeFleetRequest, _: bool
    ) -> UnregisterNodeFleetResponse:
        return UnregisterNodeFleetResponse()

    def _heartbeat(self, request: SendNodeHeartbeatRequest, _: bool) -> SendNodeHeartbeatResponse:
        self._check_node(request.node.node_id)
        return SendNodeHeartbeatResponse(success=True)

    # Instructions.

    def _pull(self, request: PullMessagesRequest, _: bool) -> PullMessagesResponse:
        """The next instruction that may come in, waited for a little."""
        self._check_node(request.node.node_id)
        until = time.monotonic() + self.hold_s
        with self.gate.changed:
            self.gate.changed.notify_all()
        while True:
            with self.gate.changed:
                exchange = self._next()
                left = until - time.monotonic()
                if exchange is None and left > 0 and not self.gate.stopping.is_set():
                    self.gate.changed.wait(left)
                    continue
            if exchange is None:
                return PullMessagesResponse()
            if exchange.standing.handed >= MOST_ATTEMPTS:
                self.gate.give_up(exchange)
                continue
            self._given = exchange.standing.down
            return exchange.pulled("down")

    def _next(self) -> Exchange | None:
        """One that is open. A SuperNode that asks again has lost the one it had."""
        return next(iter(self.gate.standing("open")), None)

    def _get_run(self, request: GetRunRequest, _: bool) -> GetRunResponse:
        self._check_node(request.node.node_id)
        run = self.gate.spool.run(request.run_id)
        if run is None:
            raise TurnedDownError(404, "no such run")
        return GetRunResponse(run=run)

    def _get_fab(self, request: GetFabRequest, _: bool) -> GetFabResponse:
        """Code that was approved: the run of an instruction that came in and is open."""
        self._check_node(request.node.node_id)
        run = self.gate.spool.run(request.run_id)
        open_ = self._down(lambda e: instruction_message(e).metadata.run_id == request.run_id)
        if run is None or not open_ or request.hash_str != run.fab_hash:
            raise TurnedDownError(404, "no such code")
        content = self.gate.spool.bundle(run.fab_hash)
        if content is None:
            raise TurnedDownError(404, "no such code")
        return GetFabResponse(fab=Fab(hash_str=run.fab_hash, content=content))

    def _pull_object(self, request: PullObjectRequest, _: bool) -> PullObjectResponse:
        self._check_node(request.node.node_id)
        name = request.object_id
        if is_id(name):
            for exchange in self._down(lambda exchange: name in exchange.asked):
                content = exchange.asked.get(name)
                return PullObjectResponse(
                    object_found=True, object_available=True, object_content=content
                )
        return PullObjectResponse(object_found=False, object_available=False)

    def _confirm(
        self, request: ConfirmMessageReceivedRequest, _: bool
    ) -> ConfirmMessageReceivedResponse:
        """The SuperNode has all of an instruction; it is kept until its answer is on its way."""
        self._check_node(request.node.node_id)
        for exchange in self._down(lambda e: e.standing.down == request.message_object_id):
            self.gate.move(exchange, handed=exchange.standing.handed + 1)
        return ConfirmMessageReceivedResponse()

    def _down(self, wanted: Callable[[Exchange], bool]) -> list[Exchange]:
        """Instructions that were let in."""
        return [exchange for exchange in self.gate.standing("open") if wanted(exchange)]

    # Replies.

    def _push(self, request: PushMessagesRequest, clean: bool) -> PushMessagesResponse:
        """A reply is announced: the gate wants all of it, wherever the server has seen some."""
        self._check_node(request.node.node_id)
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise TurnedDownError(422, "one reply at a time")
        message, tree = request.messages_list[0], request.message_object_trees[0]
        asked = message.metadata.reply_to_message_id
        exchange = next((e for e in self._all() if asked and e.standing.down == asked), None)
        if exchange is None:
            raise TurnedDownError(422, "no such instruction, or it was answered")
        if exchange.standing.step != "open":
            # Sent again, since the answer to the last object was lost.
            return PushMessagesResponse(session_id=tree.object_id)
        try:
            if not clean:
                raise RefusedError(REFUSED_CONTENT, "fields that this gate does not know")
            check_tree(tree)
            # Kept without what else the message says: its content is in the objects.
            kept = PushMessagesRequest(message_object_trees=[tree])
            arrival = self.gate.arrivals.announce(exchange, kept)
        except RefusedError as error:
            raise self._refuse(exchange, error) from None
        if not arrival.missing:
            self._verdict(arrival)
        return PushMessagesResponse(
            session_id=arrival.session,
            objects_to_push=[name for name in arrival.ids if name in arrival.missing],
            results={tree.object_id: 0},
        )

    def _all(self) -> list[Exchange]:
        return self.gate.standing("open", "judging", "leaving")

    def _push_object(self, request: PushObjectRequest, clean: bool) -> PushObjectResponse:
        self._check_node(request.node.node_id)
        arrival = self.gate.arrivals.find(request.session_id)
        if arrival is None:
            raise TurnedDownError(422, "no such reply")
        exchange = arrival.exchange
        if exchange.standing.step == "open":
            try:
                if not clean:
                    raise RefusedError(REFUSED_CONTENT, "fields that this gate does not know")
                self.gate.take(arrival, request.object_id, request.object_content)
            except RefusedError as error:
                raise self._refuse(exchange, error) from None
        if not arrival.missing:
            self._verdict(arrival)
        return PushObjectResponse(stored=True)

    def _verdict(self, arrival: Arrival) -> None:
        """Wait a little for the verdict, so that the SuperNode's own log shows a refusal."""
        self.gate.complete(arrival)
        arrival.finished.wait(self.hold_s)
        if arrival.refused:
            raise TurnedDownError(422, f"refused: {arrival.refused}")

    def _refuse(self, exchange: Exchange, error: RefusedError) -> TurnedDownError:
        told = self.gate.refuse(exchange, "out", error.code, error.words)
        return TurnedDownError(422, f"refused: {told}")


_CALLS: dict[type[Message], Callable[[Door, Message, bool], Message]] = {
    RegisterNodeFleetRequest: Door._register,
    ActivateNodeRequest: Door._activate,
    DeactivateNodeRequest: Door._deactivate,
    UnregisterNodeFleetRequest: Door._unregister,
    SendNodeHeartbeatRequest: Door._heartbeat,
    PullMessagesRequest: Door._pull,
    PushMessagesRequest: Door._push,
    GetRunRequest: Door._get_run,
    GetFabRequest: Door._get_fab,
    PushObjectRequest: Door._push_object,
    PullObjectRequest: Door._pull_object,
    ConfirmMessageReceivedRequest: Door._confirm,
}

ROUTES: dict[str, type[Message]] = {
    f"/v1/fleet/{name}": request
    for name, request in {
        "register-node": RegisterNodeFleetRequest,
        "activate-node": ActivateNodeRequest,
        "deactivate-node": DeactivateNodeRequest,
        "unregister-node": UnregisterNodeFleetRequest,
        "send-node-heartbeat": SendNodeHeartbeatRequest,
        "pull-messages": PullMessagesRequest,
        "push-messages": PushMessagesRequest,
        "get-run": GetRunRequest,
        "get-fab": GetFabRequest,
        "push-object": PushObjectRequest,
        "pull-object": PullObjectRequest,
        "confirm-message-received": ConfirmMessageReceivedRequest,
    }.items()
}
"""Every route that the gate knows; a test holds the list against Flower's."""
