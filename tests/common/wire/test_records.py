"""Whole messages: honest ones pass, every dishonest one is refused with the tensor named."""

import dataclasses
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from common.config.study import Study
from common.wire.errors import PayloadError
from common.wire.records import (
    ERRORS,
    INSTRUCTION,
    METRICS,
    WEIGHTS,
    Instruction,
    check_records,
    pack,
    unpack_weights,
)
from common.wire.vocabulary import TensorSpec

SPECS = (
    TensorSpec("conv.weight", "float32", (2, 3)),
    TensorSpec("norm.scale", "float32", ()),
    TensorSpec("counter", "int64", (2,)),
)
STATE = OrderedDict(
    [
        ("conv.weight", torch.arange(6.0).view(2, 3)),
        ("norm.scale", torch.tensor(0.5)),
        ("counter", torch.tensor([1, 2])),
    ]
)
STUDY = Study.model_validate(
    {"name": "s", "sites": {"a": {"role": "source"}, "b": {"role": "target"}}}
)


def honest(wire: str = "float32") -> RecordDict:
    return pack(weights=STATE, specs=SPECS, wire_dtype=wire)


def arrays(content: RecordDict) -> dict[str, Array]:
    return dict(content.array_records[WEIGHTS])


@pytest.mark.parametrize("wire", ["float32", "float16", "bfloat16"])
def test_an_honest_message_arrives(wire: str) -> None:
    state = unpack_weights(honest(wire), SPECS, wire)
    assert list(state) == list(STATE)
    for name, tensor in STATE.items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor)


def test_a_wire_dtype_is_not_mistaken_for_another() -> None:
    for sent, read in (("float32", "float16"), ("float16", "bfloat16"), ("bfloat16", "float32")):
        with pytest.raises(PayloadError, match=r"^conv\.weight: "):
            unpack_weights(honest(sent), SPECS, read)


def test_what_arrives_can_be_changed_without_changing_the_message() -> None:
    content = honest()
    unpack_weights(content, SPECS, "float32")["conv.weight"].zero_()
    assert torch.equal(
        unpack_weights(content, SPECS, "float32")["conv.weight"], STATE["conv.weight"]
    )


def _with(name: str, **changes: object) -> Callable[[dict[str, Array]], dict[str, Array]]:
    def change(record: dict[str, Array]) -> dict[str, Array]:
        array = record[name]
        for key, value in changes.items():
            setattr(array, key, value)
        return record

    return change


def _as(name: str, ndarray: np.ndarray) -> Callable[[dict[str, Array]], dict[str, Array]]:
    return lambda record: {**record, name: Array(ndarray)}


def _pickled() -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    np.save(buffer, np.array([["Jane", None, None]] * 2, dtype=object), allow_pickle=True)
    return buffer.getvalue()


DISHONEST: dict[str, tuple[Callable[[dict[str, Array]], dict[str, Array]], str]] = {
    "missing": (lambda r: {k: v for k, v in r.items() if k != "counter"}, "counter: missing"),
    "extra": (lambda r: {**r, "image": r["counter"]}, "'image': unexpected"),
    "renamed": (
        lambda r: {("img" if k == "norm.scale" else k): v for k, v in r.items()},
        "norm.scale: missing",
    ),
    "order": (lambda r: dict(reversed(r.items())), "conv.weight: out of order"),
    "shape": (_as("conv.weight", np.zeros((3, 2), np.float32)), "conv.weight: "),
    "float64": (_as("conv.weight", np.zeros((2, 3))), "conv.weight: "),
    "int32 counter": (_as("counter", np.zeros(2, np.int32)), "counter: "),
    "big endian": (_as("conv.weight", np.zeros((2, 3), ">f4")), "conv.weight: "),
    "Fortran order": (
        _as("conv.weight", np.asfortranarray(np.zeros((2, 3), np.float32))),
        "conv.weight: ",
    ),
    "NaN": (_as("norm.scale", np.array(np.nan, np.float32)), "norm.scale: holds NaN"),
    "infinity": (_as("norm.scale", np.array(np.inf, np.float32)), "norm.scale: holds NaN"),
    "pickle": (_with("conv.weight", data=_pickled()), "conv.weight: not a plain array"),
    "a word as stype": (_with("counter", stype="Jane"), "counter: says it is"),
    "a word as dtype": (_with("counter", dtype="Jane"), "counter: says it is"),
    "another shape told": (_with("counter", shape=(2, 1)), "counter: says it is"),
    "images under an allowed name": (
        _as("conv.weight", np.zeros((2, 12), np.uint8)),
        "conv.weight: ",
    ),
}


@pytest.mark.parametrize(("change", "words"), DISHONEST.values(), ids=list(DISHONEST))
def test_dishonest_weights_are_refused_by_name(
    change: Callable[[dict[str, Array]], dict[str, Array]], words: str
) -> None:
    content = RecordDict({WEIGHTS: ArrayRecord(change(arrays(honest())))})
    with pytest.raises(PayloadError) as caught:
        unpack_weights(content, SPECS, "float32")
    assert str(caught.value).startswith(words)


def test_bytes_behind_the_payload_are_refused() -> None:
    record = arrays(honest())
    record["counter"].data += b"patient 17"
    with pytest.raises(PayloadError, match=r"^counter: "):
        unpack_weights(RecordDict({WEIGHTS: ArrayRecord(record)}), SPECS, "float32")


def test_weights_where_none_belong_and_none_where_they_do() -> None:
    assert unpack_weights(RecordDict(), (), "float32") == {}
    with pytest.raises(PayloadError, match="no weights came"):
        unpack_weights(RecordDict(), SPECS, "float32")
    with pytest.raises(PayloadError, match=r"'conv\.weight': unexpected"):
        unpack_weights(honest(), (), "float32")


def test_pack_sends_only_what_the_vocabulary_names() -> None:
    extra: dict[str, Tensor] = {**STATE, "image": torch.zeros(1)}
    with pytest.raises(PayloadError, match="'image': unexpected"):
        pack(weights=extra, specs=SPECS)


def test_records_are_the_known_ones_of_their_own_kind() -> None:
    allowed = (WEIGHTS, METRICS)
    check_records(pack(weights=STATE, specs=SPECS, metrics={"loss": 1.0}), allowed)
    with pytest.raises(PayloadError, match=r"^1 unexpected record\(s\)$"):
        check_records(RecordDict({"jane": MetricRecord({"loss": 1.0})}), allowed)
    with pytest.raises(PayloadError, match="unexpected"):
        check_records(RecordDict({INSTRUCTION: MetricRecord()}), allowed)
    words = ConfigRecord({"note": "patient 17"})
    for name in allowed:
        with pytest.raises(PayloadError, match=f"^record {name}: is no "):
            check_records(RecordDict({name: words}), allowed)
    with pytest.raises(PayloadError, match=r"^record metrics"):
        check_records(RecordDict({METRICS: ArrayRecord([np.zeros(2)])}), allowed)


def test_a_metric_record_takes_no_word() -> None:
    with pytest.raises(TypeError):
        pack(metrics={"loss": "Jane"})  # type: ignore[dict-item]


INSTRUCTED = Instruction(STUDY.for_sites().canonical(), "mim", "mim/mim", 2, 7)


def test_an_instruction_survives_the_trip() -> None:
    assert Instruction.from_record(INSTRUCTED.to_record()) == INSTRUCTED
    assert INSTRUCTED.load_study() == STUDY


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study": STUDY.canonical() + " "}, "does not match its SHA-256"),
        ({"sha256": "0" * 64}, "does not match its SHA-256"),
        ({"order": "open the masks"}, "its keys"),
        ({"round": "2"}, "round is no int"),
        ({"round": True}, "round is no int"),
        ({"seed": 1.0}, "seed is no int"),
        ({"stage": b"mim"}, "stage is no str"),
        ({"training": ["mim/mim"]}, "training is no str"),
    ],
)
def test_a_tampered_instruction_is_refused(change: dict[str, object], words: str) -> None:
    record = ConfigRecord({**INSTRUCTED.to_record(), **change})  # type: ignore[dict-item]
    with pytest.raises(PayloadError, match=f"^instruction: .*{words}"):
        Instruction.from_record(record)


@pytest.mark.parametrize("key", ["study", "sha256", "stage", "training", "round", "seed"])
def test_an_instruction_lacks_nothing(key: str) -> None:
    record = INSTRUCTED.to_record()
    del record[key]
    with pytest.raises(PayloadError, match="its keys"):
        Instruction.from_record(record)


def test_the_crossing_study_holds_no_folder_pattern_or_path() -> None:
    secret = "st-elsewhere"
    study = Study.model_validate(
        {
            "name": "s",
            "sites": {
                "a": {
                    "role": "source",
                    "folder": secret,
                    "columns": {"patient": secret},
                    "where": {secret: secret},
                    "drop": {secret: secret},
                    "test": {secret: secret},
                },
                "b": {"role": "target", "folder": secret},
            },
            "model": {"weights": f"/home/{secret}.npz"},
            "lower": {"from_weights": True},
        }
    )
    text = study.for_sites().canonical()
    assert secret in study.canonical()
    assert secret not in text
    crossed = dataclasses.replace(INSTRUCTED, study=text).load_study()
    assert crossed.canonical() == text
    assert json.loads(text)["lower"]["from_weights"] is True
    assert hashlib.sha256(text.encode()).hexdigest() == crossed.digest


def test_every_error_is_a_code_with_fixed_words() -> None:
    assert len(ERRORS) == 6
    assert all("{" not in words and "%" not in words for words in ERRORS.values())
