"""Within an ulp or two of the mathematical value, and the same wherever a number stands."""

import math

import numpy as np
import pytest

from common.selection import arithmetic

RNG = np.random.default_rng(0)
X = np.concatenate([[0.0, 1.0, 0.66, 2.414213562373095], 10.0 ** RNG.uniform(-12, 12, 5000)])


@pytest.mark.parametrize(
    ("own", "true", "x"),
    [
        (arithmetic.arctan, math.atan, X),
        (arithmetic.exp, math.exp, RNG.uniform(-600, 600, 5000)),
        (arithmetic.log, math.log, X[1:]),
    ],
)
def test_within_two_units_in_the_last_place(own, true, x) -> None:  # type: ignore[no-untyped-def]
    wanted = np.array([true(value) for value in x])
    assert (np.abs(own(x) - wanted) <= 2 * np.spacing(np.abs(wanted))).all()


def test_ends() -> None:
    assert arithmetic.arctan(np.array([0.0, np.inf])).tolist() == [0.0, math.pi / 2]
    assert arithmetic.exp(np.zeros(1)).tolist() == [1.0]
    assert arithmetic.log(np.ones(1)).tolist() == [0.0]


@pytest.mark.parametrize("function", [arithmetic.arctan, arithmetic.exp, arithmetic.log])
def test_a_number_has_one_result_wherever_it_stands(function) -> None:  # type: ignore[no-untyped-def]
    """numpy's own functions need not: vector lanes and the rest may be computed by other code."""
    x = RNG.uniform(0.1, 9, 1003)
    whole = function(x)
    strided = np.empty((1003, 3))
    strided[:, 1] = x
    for part in (function(x[5:])[:1], function(x[5:6]), function(strided[:, 1])[5:6]):
        assert part.tobytes() == whole[5:6].tobytes()
    alone = np.concatenate([function(x[row : row + 1]) for row in range(len(x))])
    assert alone.tobytes() == whole.tobytes()
