"""The vocabulary as Flower records. With the engines and the two apps, all that knows Flower."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import SType
from torch import Tensor

from common.config.study import Study
from common.wire.errors import PayloadError
from common.wire.payload import (
    array_dtype,
    check_names,
    decode,
    encode,
    parse,
)
from common.wire.vocabulary import TensorSpec

WEIGHTS, METRICS, INSTRUCTION = "weights", "metrics", "instruction"
KINDS: Mapping[str, type] = {
    WEIGHTS: ArrayRecord, METRICS: MetricRecord, INSTRUCTION: ConfigRecord
}  # fmt: skip
ERROR_INPUT, ERROR_REFUSED, ERROR_FAILED, ERROR_MEMORY, ERROR_RELEASE = 1001, 1002, 1003, 1004, 1005
ERROR_DISK = 1006
"""All that a site says of its troubles: its data, the instruction, its code, its memory, that its
weights must not leave, or its disk."""

ERRORS = {
    ERROR_INPUT: "its data are not what the study needs",
    ERROR_REFUSED: "it refused the instruction",
    ERROR_FAILED: "its training failed",
    ERROR_MEMORY: "it ran out of memory",
    ERROR_RELEASE: "its weights reproduce training images, so it released none of them",
    ERROR_DISK: "its disk is full",
}


@dataclass(frozen=True)
class Instruction:
    """What the server asks. The study says how; this says only which part of it, and where in it.

    Attributes:
        study: The study's canonical JSON as it crosses, without anybody's folders.
        stage: The stage.
        training: Key of a training (or member) in the study's plan; empty where none is meant.
        round: From 1.
        seed: The study's seed.
        step: Of a stage that has several kinds of message, such as "embed" or "cluster".
    """

    study: str
    stage: str
    training: str = ""
    round: int = 1
    seed: int = 0
    step: str = ""

    def to_record(self) -> ConfigRecord:
        """As it travels, the study with its SHA-256."""
        return ConfigRecord(
            {
                "study": self.study,
                "sha256": hashlib.sha256(self.study.encode()).hexdigest(),
                "stage": self.stage,
                "training": self.training,
                "round": self.round,
                "seed": self.seed,
                "step": self.step,
            }
        )

    @classmethod
    def from_record(cls, record: ConfigRecord) -> "Instruction":
        """Read and check an instruction.

        Raises:
            PayloadError: If a key is missing or unknown, or the study is not what its digest says.
        """
        kinds = {
            "study": str, "sha256": str, "stage": str, "training": str, "round": int, "seed": int,
            "step": str,
        }  # fmt: skip
        values = dict(record)
        if set(values) != set(kinds):
            raise PayloadError("instruction: its keys are not those of this version")
        for key, kind in kinds.items():
            if type(values[key]) is not kind:
                raise PayloadError(f"instruction: {key} is no {kind.__name__}")
        study = str(values["study"])
        if hashlib.sha256(study.encode()).hexdigest() != values["sha256"]:
            raise PayloadError("instruction: the study does not match its SHA-256")
        return cls(
            study,
            str(values["stage"]),
            str(values["training"]),
            int(str(values["round"])),
            int(str(values["seed"])),
            str(values["step"]),
        )

    def load_study(self) -> Study:
        """The study, validated again at this side."""
        return Study.model_validate_json(self.study)


def pack(
    *,
    instruction: Instruction | None = None,
    weights: Mapping[str, Tensor] | None = None,
    specs: Sequence[TensorSpec] = (),
    wire_dtype: str = "float32",
    metrics: Mapping[str, float | int] | None = None,
) -> RecordDict:
    """Build a message's content: an instruction or metrics, and weights where there are any."""
    content = RecordDict()
    if instruction is not None:
        content[INSTRUCTION] = instruction.to_record()
    if weights is not None:
        check_names(list(weights), specs)
        content[WEIGHTS] = ArrayRecord(
            OrderedDict(
                (spec.name, Array(encode(weights[spec.name], spec, wire_dtype))) for spec in specs
            )
        )
    if metrics is not None:
        content[METRICS] = MetricRecord(dict(metrics))
    return content


def unpack_weights(
    content: RecordDict, specs: Sequence[TensorSpec], wire_dtype: str
) -> OrderedDict[str, Tensor]:
    """The weights of a message, each tensor checked against the vocabulary.

    Raises:
        PayloadError: Naming the tensor that is missing, unexpected, misplaced or malformed.
    """
    if WEIGHTS not in content.array_records:
        if specs:
            raise PayloadError("no weights came")
        return OrderedDict()
    record = content.array_records[WEIGHTS]
    check_names(list(record), specs)
    state: OrderedDict[str, Tensor] = OrderedDict()
    for spec in specs:
        array = record[spec.name]
        # What an array says of itself beside its bytes are free words, unless held to the spec.
        told = (array.dtype, tuple(array.shape), array.stype)
        if told != (array_dtype(spec, wire_dtype), spec.shape, SType.NUMPY):
            raise PayloadError(f"{spec.name}: says it is {told!r:.80}")
        state[spec.name] = decode(parse(array.data, spec, wire_dtype), spec, wire_dtype)
    return state


def check_records(content: RecordDict, allowed: Sequence[str]) -> None:
    """No record but the known ones, each of its own kind.

    Raises:
        PayloadError: Naming how many unknown records came, or the record of another kind.
    """
    unknown = [name for name in content if name not in allowed]
    if unknown:
        raise PayloadError(f"{len(unknown)} unexpected record(s)")
    for name in content:
        if type(content[name]) is not KINDS[name]:
            raise PayloadError(f"record {name}: is no {KINDS[name].__name__}")
