"""What the policy judges: messages, decoded and typed; of each tensor only what it is asked.

No weight is held here, so judging needs no more memory for a large model than for a small one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.wire.digest import Measured, message_bytes, message_digest


class RefusedError(Exception):
    """A message that cannot be read as what it should be.

    Args:
        code: Of `common.wire.gate.GATE_ERRORS`.
        words: Why, for the site's own eyes.
    """

    def __init__(self, code: int, words: str) -> None:
        self.code = code
        self.words = words
        super().__init__(words)


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a message.

    Attributes:
        name: Its name.
        dtype: As it travels; "uint16" is bfloat16's bits.
        shape: Its shape.
        bytes: Of its .npy form.
        sha256: Of its .npy form, hex.
        finite: Whether it holds neither NaN nor infinity.
        low: Smallest value of a tensor of whole numbers, else None.
        high: Largest value of such a tensor.
        square: Sum of squares of the incoming tensor of that name; None where none came.
        update_square: Sum of squares of the difference from it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    sha256: str
    finite: bool = True
    low: int | None = None
    high: int | None = None
    square: float | None = None
    update_square: float | None = None

    @property
    def measured(self) -> Measured:
        """Its entry in the message's digest."""
        return self.name, self.bytes, self.sha256


@dataclass(frozen=True)
class InstructionFacts:
    """What the server asks.

    Attributes:
        message: Category and stage, such as "train.mim".
        study: The study, decoded.
        study_digest: SHA-256 of its canonical JSON.
        training: Key of what is meant; may be empty.
        round: From 1.
        seed: The study's.
        step: Of a stage that has several.
        bundle: SHA-256 of the code that would run; empty in a simulation.
        tensors: The weights that came.
    """

    message: str
    study: Mapping[str, Any]
    study_digest: str
    training: str = ""
    round: int = 1
    seed: int = 0
    step: str = ""
    bundle: str = ""
    tensors: tuple[TensorFacts, ...] = ()

    @property
    def stage(self) -> str:
        """The stage."""
        return self.message.partition(".")[2]

    @property
    def exchange(self) -> str:
        """The name that its exchange has in a manifest."""
        return exchange_name(self.message, self.training, self.step)

    @property
    def digest(self) -> str:
        """Digest of what came."""
        return message_digest([tensor.measured for tensor in self.tensors], {})

    @property
    def bytes(self) -> int:
        """Bytes that came."""
        return message_bytes([tensor.measured for tensor in self.tensors], {})


@dataclass(frozen=True)
class ReplyFacts:
    """What a site answers.

    Attributes:
        tensors: Its tensors, in their order.
        metrics: Its scalars.
        error: A code instead of both; 0 where it is none.
    """

    tensors: tuple[TensorFacts, ...] = ()
    metrics: Mapping[str, float | int] = field(default_factory=dict)
    error: int = 0

    @property
    def digest(self) -> str:
        """Digest of what would leave."""
        return message_digest([tensor.measured for tensor in self.tensors], self.metrics)

    @property
    def bytes(self) -> int:
        """Bytes that would leave."""
        return message_bytes([tensor.measured for tensor in self.tensors], self.metrics)


def exchange_name(message: str, training: str = "", step: str = "") -> str:
    """What a manifest calls a message and its reply, such as "train.mim mim/mim"."""
    return " ".join(part for part in (message, training, step) if part)
