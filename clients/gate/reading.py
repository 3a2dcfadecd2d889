"""What lies in the spool, read: an instruction, and the reply to it as far as it has come."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde_utils import metadata_from_proto

from clients.gate.arrivals import Arrival
from clients.gate.facts import InstructionFacts, RefusedError, ReplyFacts, TensorFacts
from clients.gate.objects import (
    HeldArray,
    Packed,
    open_held,
    pack,
    read_held,
    tree_ids,
)
from clients.gate.payload import (
    DOWN,
    INSTRUCTION,
    UP,
    check_records,
    error_code,
    instruction_facts,
    read_metrics,
    read_receipt,
    write_error,
)
from clients.gate.spool import Exchange
from clients.gate.tensors import check_name, refused
from common.wire.gate import LEDGER, METRICS, RECEIPT, REFUSED_INSTRUCTION, WEIGHTS


@dataclass(frozen=True)
class Asked:
    """An instruction that lies in the spool.

    Attributes:
        message: As the server knows it, without its tensors.
        arrays: Its weights, which stay on the disk.
        kinds: Its records.
        facts: What it asks.
        receipt: The server's receipt in it, or empty.
    """

    message: Message
    arrays: Mapping[str, HeldArray]
    kinds: frozenset[str]
    facts: InstructionFacts
    receipt: str

    def handed_down(self) -> Packed:
        """The instruction as the site's code gets it: written anew, without the receipt."""
        content = RecordDict({INSTRUCTION: self.message.content[INSTRUCTION]})
        below = Message(content, metadata=_copy(self.message))  # type: ignore[call-overload]
        return pack(below, {WEIGHTS: self.arrays} if WEIGHTS in self.kinds else {})


def _copy(message: Message) -> object:
    """Metadata of its own, since a message's id is put into them."""
    told = message.metadata
    again = object.__new__(type(told))
    again.__dict__.update(told.__dict__)
    return again


def instruction_message(exchange: Exchange) -> Message:
    """The instruction as the server announced it, without content: what an answer replies to."""
    metadata = metadata_from_proto(exchange.pulled("asked").messages_list[0].metadata)
    metadata.__dict__["_message_id"] = exchange.id
    return Message(RecordDict(), metadata=metadata)  # type: ignore[call-overload, no-any-return]


def read_asked(
    exchange: Exchange,
    bundle: str,
    node_id: int | None,
    early: Mapping[str, TensorFacts] | None = None,
) -> Asked:
    """What an instruction asks.

    Args:
        exchange: Whose.
        bundle: SHA-256 of the code that it would run.
        node_id: This node's.
        early: Of tensors that were read while others came, by id.

    Raises:
        RefusedError: If it is no instruction as the vocabulary writes them.
    """
    try:
        tree = exchange.pulled("asked").message_object_trees[0]
        held = open_held(exchange.id, exchange.asked, tree_ids(tree))
        message = held.message
        if message.has_error():
            raise refused("it is an error, not an instruction")
        message.metadata.__dict__["_message_id"] = exchange.id
        if _announced(message) != _announced(instruction_message(exchange)):
            raise refused("it was announced as another")
        if message.metadata.dst_node_id != node_id or message.metadata.reply_to_message_id:
            raise refused("it is not for this site")
        check_records(held.kinds, DOWN)
        arrays = held.arrays.get(WEIGHTS, {})
        known = early or {}
        tensors = tuple(
            replace(known.get(array.id) or read_held(name, array, exchange.asked), name=name)
            for name, array in arrays.items()
        )
        for name in arrays:
            check_name(name)
        record = message.content.config_records.get(INSTRUCTION)
        facts = instruction_facts(message.metadata.message_type, record, bundle, tensors)
        receipt = read_receipt(message.content.config_records.get(RECEIPT))
    except RefusedError as error:
        raise RefusedError(REFUSED_INSTRUCTION, error.words) from None
    return Asked(message, arrays, frozenset(held.kinds), facts, receipt)


def _announced(message: Message) -> tuple[object, ...]:
    """What a message says of itself both in its announcement and in its object."""
    told = message.metadata
    return (
        told.run_id, told.src_node_id, told.dst_node_id, told.reply_to_message_id, told.group_id,
        told.created_at, told.ttl, told.message_type,
    )  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A reply that is all here.

    Attributes:
        facts: What it would let out.
        arrays: Its weights, which stay on the disk.
    """

    facts: ReplyFacts
    arrays: Mapping[str, HeldArray]


def read_answer(arrival: Arrival, asked: Asked, *, update: bool) -> Answer:
    """What a reply would let out.

    Args:
        arrival: All of it.
        asked: The instruction.
        update: Whether tensors are measured against those that came.

    Raises:
        RefusedError: If anything in it is not as an honest sender writes it.
    """
    objects = arrival.exchange.reply
    held = open_held(arrival.root, objects, arrival.ids)
    if held.message.has_error():
        return Answer(ReplyFacts(error=error_code(held.message.error.code)), {})
    check_records(held.kinds, UP)
    metrics = read_metrics(held.message.content.metric_records.get(METRICS))
    arrays = held.arrays.get(WEIGHTS, {})
    tensors = []
    for name, array in arrays.items():
        early = arrival.read.get(array.id)
        incoming = asked.arrays.get(name) if update else None
        if early is None or (update and early.name != name):
            early = read_held(name, array, objects, incoming, arrival.exchange.asked)
        tensors.append(replace(early, name=name))
    return Answer(ReplyFacts(tuple(tensors), metrics), arrays)


def answer_message(
    asked: Message, answer: Answer, facts: ReplyFacts, letter: Mapping[str, str | int]
) -> Packed:
    """The reply that leaves: its small objects written anew, its tensors where they were compared.

    A record that holds nothing is left out: whether it was there would say something.

    Args:
        asked: The instruction; all metadata come from it.
        answer: What came.
        facts: What of it leaves.
        letter: Put beside it: the ledger's key, sequence and head.
    """
    if facts.error:
        return pack(write_error(asked, facts.error, "see the site's own log"), {})
    content = RecordDict()
    if facts.metrics:
        content[METRICS] = MetricRecord(dict(facts.metrics))
    content[LEDGER] = ConfigRecord(dict(letter))
    return pack(Message(content, reply_to=asked), {WEIGHTS: answer.arrays} if facts.tensors else {})
