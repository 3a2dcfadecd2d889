"""The benches at tiny sizes: both ways agree, and the records say what was promised."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from common.wire.records import pack, unpack_weights
from scripts.bench import aggregate, contrastive, inference, step, wire
from scripts.bench.full_size import full_size, largest_difference, numbers, reply
from scripts.bench.measure import Record

FIELDS = {"name", "ours", "reference", "unit", "peak_rss_mb", "reference_peak_rss_mb", "seed"}
TINY: dict[str, Any] = {"preset": "tiny", "repeats": 1, "fresh": False}


def checked(records: Iterable[Record]) -> list[Record]:
    lines = list(records)
    for line in lines:
        json.dumps(line)
        assert set(line) >= FIELDS
        assert float(line["ours"]) > 0
        assert float(line["reference"]) > 0
    return lines


def test_the_running_mean_is_flowers_mean() -> None:
    lines = checked(aggregate.run(replies=(1, 3), **TINY))
    assert [line["replies"] for line in lines] == [1, 3]
    assert all(float(line["max_difference"]) < 1e-6 for line in lines)


def test_the_full_size_is_the_published_one_and_replies_differ() -> None:
    assert 105_000_000 < numbers(full_size("r50-vit-b16")) < 106_000_000
    specs = full_size("tiny")
    one, again, other = reply(specs, 0, 0), reply(specs, 0, 0), reply(specs, 1, 0)
    name = specs[0].name
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])
    arrived = unpack_weights(pack(weights=one, specs=specs), specs, "float32")
    assert all(torch.equal(arrived[spec.name], one[spec.name]) for spec in specs)


def test_half_precision_halves_the_wire_and_rounds() -> None:
    full, half, brain = checked(wire.run(**TINY))
    assert full["wire_mb"] == full["reference_wire_mb"]
    assert half["wire_mb"] == brain["wire_mb"] == float(full["wire_mb"]) / 2
    assert full["max_difference"] == 0
    assert 0 < float(half["max_difference"]) < 2**-10
    assert 0 < float(brain["max_difference"]) < 2**-7


def test_a_step_of_ours_learns_what_the_plain_step_learns() -> None:
    (line,) = checked(step.run(precisions=("float32",), side=32, batch=2, steps=1, **TINY))
    assert line["loss"] == pytest.approx(line["reference_loss"], abs=0.02)


def test_gradient_caching_gives_the_gradient_of_one_graph() -> None:
    (line,) = checked(contrastive.run(views=16, micro_batch=4, frames=4, side=32, **TINY))
    assert line["loss"] == pytest.approx(line["reference_loss"], rel=1e-5)
    assert float(line["max_gradient_difference"]) < 1e-4


def test_the_gradient_difference_is_relative_and_leaves_rounding_out() -> None:
    reference = [np.array([1.0, -4.0]), np.array([1e-9, 0.0])]
    ours = [np.array([1.0, -3.0]), np.array([-1e-9, 0.0])]
    assert contrastive.gradient_difference(ours, reference) == 0.25
    one, other = np.array([1, 2], np.float32), np.array([1, 4], np.float32)
    assert largest_difference(one, other) == 0.5


def test_inference_ends_with_nearly_the_plain_way_s_masks() -> None:
    lines = checked(
        inference.run(
            preset="tiny", frames=2, repeats=1, fresh=False, precisions=("int8", "fp32"),
            threads=(1,),
        )
    )  # fmt: skip
    assert [line["name"] for line in lines] == [
        "inference int8, 1 threads", "inference fp32, 1 threads",
    ]  # fmt: skip
    assert 0.01 < float(lines[0]["mask_share"]) < 0.9
    assert 0 < float(lines[0]["mean_branch_difference"]) < 0.02
    assert float(lines[1]["max_branch_difference"]) < 1e-3
    assert float(lines[1]["mask_pixels_moved"]) < 1e-4
