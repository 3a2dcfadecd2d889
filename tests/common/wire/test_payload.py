import math
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.wire.errors import PayloadError
from common.wire.payload import (
    cast_to_wire,
    check_metrics,
    check_names,
    decode,
    digest_of,
    encode,
    parse,
    payload_bytes,
)
from common.wire.vocabulary import COUNT, LOSS, SHARE, MetricSpec, TensorSpec

WIRE = ("float32", "float16", "bfloat16")
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
SPECS = (
    TensorSpec("a", "float32", (2, 3)),
    TensorSpec("b", "int64", ()),
    TensorSpec("c", "bool", (4,)),
)
METRICS = {"images": COUNT, "loss": LOSS, "share": SHARE, "unit": MetricSpec("count", 0, 2)}
HONEST = {"images": 3, "loss": 0.5, "share": 1.0, "unit": 0}


def npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@settings(deadline=None)
@given(shape=SHAPES, wire=st.sampled_from(WIRE), seed=st.integers(0, 2**31))
def test_floats_come_back_rounded_to_the_wires_dtype(
    shape: tuple[int, ...], wire: str, seed: int
) -> None:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        spec = TensorSpec("w", str(dtype).removeprefix("torch."), shape)
        data = npy(encode(tensor, spec, wire))
        back = decode(parse(data, spec, wire), spec, wire)
        assert back.dtype == dtype
        assert back.shape == shape
        assert torch.equal(back, tensor.to(getattr(torch, wire)).to(dtype))
        assert torch.equal(back, cast_to_wire({"w": tensor}, wire)["w"])


@settings(deadline=None)
@given(
    shape=SHAPES,
    dtype=st.sampled_from(["int64", "int32", "int16", "int8", "uint8", "bool"]),
    wire=st.sampled_from(WIRE),
)
def test_whole_numbers_come_back_exactly(shape: tuple[int, ...], dtype: str, wire: str) -> None:
    kind = getattr(torch, dtype)
    high = 2 if dtype == "bool" else torch.iinfo(kind).max
    tensor = torch.randint(0, high, shape).to(kind)
    spec = TensorSpec("n", dtype, shape)
    back = decode(parse(npy(encode(tensor, spec, wire)), spec, wire), spec, wire)
    assert back.dtype == kind
    assert torch.equal(back, tensor)


@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_no_foreign_bytes_pass(data: bytes) -> None:
    with pytest.raises(PayloadError, match=r"^w: "):
        parse(data, TensorSpec("w", "float32", (2, 3)), "float32")


HONEST_ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
MUTATED = {
    "trailing byte": npy(HONEST_ARRAY) + b"\0",
    "cut": npy(HONEST_ARRAY)[:-1],
    "big endian": npy(HONEST_ARRAY.astype(">f4")),
    "float64": npy(HONEST_ARRAY.astype(np.float64)),
    "uint8 of the same number of bytes": npy(HONEST_ARRAY.view(np.uint8)),
    "int32": npy(HONEST_ARRAY.view(np.int32)),
    "turned": npy(np.ascontiguousarray(HONEST_ARRAY.T)),
    "Fortran order": npy(np.asfortranarray(HONEST_ARRAY)),
    "flat": npy(HONEST_ARRAY.ravel()),
    "another version of the format": b"\x93NUMPY\x02\x00" + npy(HONEST_ARRAY)[8:],
    "wider header": npy(HONEST_ARRAY).replace(b" \n", b"  \n", 1),
    "a word in the header's padding": npy(HONEST_ARRAY).replace(b"    \n", b"Jane\n", 1),
    "nothing": b"",
}


@pytest.mark.parametrize("data", MUTATED.values(), ids=list(MUTATED))
def test_one_tensor_has_one_spelling(data: bytes) -> None:
    spec = TensorSpec("w", "float32", (2, 3))
    assert data != npy(HONEST_ARRAY)
    with pytest.raises(PayloadError, match=r"^w: "):
        parse(data, spec, "float32")


def test_pickles_and_archives_are_not_even_opened() -> None:
    buffer = BytesIO()
    np.save(buffer, np.array([{"patient": "Jane"}], dtype=object), allow_pickle=True)
    archive = BytesIO()
    np.savez(archive, HONEST_ARRAY)
    for data in (buffer.getvalue(), archive.getvalue()):
        with pytest.raises(PayloadError, match=r"^w: not a plain array"):
            parse(data, TensorSpec("w", "float32", (2, 3)), "float32")


def test_a_header_cannot_ask_for_memory() -> None:
    buffer = BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(buffer, fields)
    with pytest.raises(PayloadError, match=r"^w: "):
        parse(buffer.getvalue(), TensorSpec("w", "float32", (2, 3)), "float32")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wire", WIRE)
def test_what_is_no_number_is_refused(value: float, wire: str) -> None:
    tensor = torch.zeros(2, 3)
    tensor[1, 2] = value
    spec = TensorSpec("w", "float32", (2, 3))
    with pytest.raises(PayloadError, match=r"^w: holds NaN or infinity$"):
        decode(encode(tensor, spec, wire), spec, wire)


def test_a_number_too_large_for_the_wire_is_refused_on_arrival() -> None:
    spec = TensorSpec("w", "float32", (1,))
    with pytest.raises(PayloadError, match="infinity"):
        decode(encode(torch.tensor([1e6]), spec, "float16"), spec, "float16")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (HONEST_ARRAY.astype(np.float64), "dtype float64, expected float32"),
        (HONEST_ARRAY.astype(">f4"), "dtype >f4, expected float32"),
        (HONEST_ARRAY.T, r"shape \(3, 2\), expected \(2, 3\)"),
        (np.array([["x"]], dtype=object), "dtype object"),
    ],
)
def test_decode_names_the_tensor(array: np.ndarray, words: str) -> None:
    with pytest.raises(PayloadError, match=f"^w: {words}"):
        decode(array, TensorSpec("w", "float32", (2, 3)), "float32")


def test_decode_puts_fortran_order_right() -> None:
    spec = TensorSpec("w", "float32", (2, 3))
    tensor = decode(np.asfortranarray(HONEST_ARRAY), spec, "float32")
    assert tensor.is_contiguous()
    assert tensor.tolist() == HONEST_ARRAY.tolist()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b"], "^c: missing$"),
        ([], "^a: missing$"),
        (["a", "b", "c", "jane"], "^'jane': unexpected$"),
        (["a", "b", "d"], "^c: missing$"),
        (["b", "a", "c"], "^a: out of order$"),
        (["a", "c", "b"], "^b: out of order$"),
    ],
)
def test_names_are_all_there_in_order(names: list[str], words: str) -> None:
    check_names(["a", "b", "c"], SPECS)
    with pytest.raises(PayloadError, match=words):
        check_names(names, SPECS)


def test_a_refusal_quotes_no_long_name() -> None:
    with pytest.raises(PayloadError) as caught:
        check_names(["a", "b", "c", "x" * 10_000], SPECS)
    assert len(str(caught.value)) < 120
    with pytest.raises(PayloadError) as caught:
        check_metrics({"y" * 10_000: 1}, METRICS, complete=False)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": 3.0}, "images: float, expected a count"),
        ({"images": True}, "images: bool"),
        ({"images": -1}, "images: -1 is outside"),
        ({"images": 2**62}, "images: .* is outside"),
        ({"unit": 3}, "unit: 3 is outside"),
        ({"loss": 1}, "loss: int, expected a number"),
        ({"loss": math.nan}, "loss: nan"),
        ({"loss": math.inf}, "loss: inf"),
        ({"share": 1.0000001}, "share: .* is outside"),
        ({"share": [0.5]}, "share: list"),
        ({"images": list(range(4096))}, "images: list"),
        ({"share": "Jane"}, "share: str"),
        ({"share": b"Jane"}, "share: bytes"),
        ({"jane.doe": 1}, "'jane.doe': unexpected"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_metrics_are_held_to_kind_and_range(
    change: dict[str, object], words: str, complete: bool
) -> None:
    with pytest.raises(PayloadError, match=f"^metric {words}"):
        check_metrics({**HONEST, **change}, METRICS, complete=complete)


def test_metrics_may_be_left_out_only_where_the_stage_says_so() -> None:
    assert check_metrics({"loss": 1.5}, METRICS, complete=False) == {"loss": 1.5}
    with pytest.raises(PayloadError, match=r"^metric images: missing$"):
        check_metrics({"loss": 1.5}, METRICS, complete=True)


@settings(deadline=None)
@given(st.permutations(list(HONEST.items())))
def test_metrics_come_out_in_the_vocabularys_order(items: list[tuple[str, float]]) -> None:
    assert list(check_metrics(dict(items), METRICS, complete=True)) == list(METRICS)


@pytest.mark.parametrize(("wire", "width"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_bytes_moved_are_what_the_arrays_hold(wire: str, width: int) -> None:
    assert payload_bytes(SPECS, wire) == 6 * width + 8 + 4
    tensors = {"a": torch.rand(2, 3), "b": torch.tensor(7), "c": torch.ones(4, dtype=torch.bool)}
    assert payload_bytes(SPECS, wire) == sum(
        encode(tensors[spec.name], spec, wire).nbytes for spec in SPECS
    )


def test_a_digest_tells_names_dtypes_shapes_order_and_values_apart() -> None:
    state = {"a": torch.arange(6.0), "b": torch.tensor(1)}
    others = [
        {"a": torch.arange(6.0), "c": torch.tensor(1)},
        {"b": torch.tensor(1), "a": torch.arange(6.0)},
        {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)},
        {"a": torch.arange(6.0), "b": torch.tensor(1, dtype=torch.int32)},
        {"a": torch.arange(6.0), "b": torch.tensor(2)},
        {"a": -torch.arange(6.0), "b": torch.tensor(1)},
    ]
    digests = {digest_of(one) for one in [state, *others]}
    assert len(digests) == 1 + len(others)
    assert digest_of({k: v.clone() for k, v in state.items()}) == digest_of(state)
