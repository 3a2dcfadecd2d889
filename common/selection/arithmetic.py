"""Arctangent, exponential and logarithm whose last bit is the same on every machine.

numpy's own come from whatever vector library fits the processor at hand, and that may differ in
the last bit from one hospital to the next. These use nothing but additions, multiplications,
divisions and square roots, one numpy call each, and those IEEE 754 rounds in one way only. The
rational approximations are those of the Cephes library (S. Moshier), the relative error is below
3e-16.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ATAN_P = (
    -8.750608600031904122785e-1,
    -1.615753718733365076637e1,
    -7.500855792314704667340e1,
    -1.228866684490136173410e2,
    -6.485021904942025371773e1,
)
_ATAN_Q = (
    1.0,
    2.485846490142306297962e1,
    1.650270098316988542046e2,
    4.328810604912902668951e2,
    4.853903996359136964868e2,
    1.945506571482613964425e2,
)
_EXP_P = (1.26177193074810590878e-4, 3.02994407707441961300e-2, 9.99999999999999999910e-1)
_EXP_Q = (
    3.00198505138664455042e-6,
    2.52448340349684104192e-3,
    2.27265548208155028766e-1,
    2.0,
)
_LN2_HIGH, _LN2_LOW = 6.93145751953125e-1, 1.42860682030941723212e-6
_TAN_3_PI_8 = 2.41421356237309504880
_PI_2_LOW = 6.123233995736765886130e-17
"""What pi/2 in float64 lacks."""


def _polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    """Horner's scheme, highest power first."""
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= x
        value += coefficient
    return value


def arctan(x: Floats) -> Floats:
    """Arctangent of numbers in [0, infinity]; any shape."""
    large, medium = x > _TAN_3_PI_8, (x > 0.66) & (x <= _TAN_3_PI_8)
    with np.errstate(divide="ignore", invalid="ignore"):
        reduced = np.where(large, -1.0 / x, np.where(medium, (x - 1.0) / (x + 1.0), x))
    z = reduced * reduced
    z = z * _polynomial(z, _ATAN_P) / _polynomial(z, _ATAN_Q)
    value = reduced * z + reduced
    value += np.where(large, _PI_2_LOW, np.where(medium, _PI_2_LOW / 2, 0.0))
    value += np.where(large, math.pi / 2, np.where(medium, math.pi / 4, 0.0))
    return value


def exp(x: Floats) -> Floats:
    """Exponential of numbers in [-700, 700]; any shape."""
    power = np.floor(x * 1.4426950408889634 + 0.5)
    reduced = x - power * _LN2_HIGH
    reduced = reduced - power * _LN2_LOW
    square = reduced * reduced
    odd = reduced * _polynomial(square, _EXP_P)
    value = 1.0 + 2.0 * (odd / (_polynomial(square, _EXP_Q) - odd))
    return np.ldexp(value, power.astype(np.int64))


def log(x: Floats) -> Floats:
    """Natural logarithm of positive, normal numbers; any shape.

    With the mantissa m in [sqrt 1/2, sqrt 2) and s = (m - 1) / (m + 1), log m is
    2 (s + s^3 / 3 + s^5 / 5 + ...); |s| < .172, so eleven terms leave less than 1e-17.
    """
    mantissa, power = np.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa = np.where(small, 2.0 * mantissa, mantissa)
    exponent = (power - small).astype(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    series = _polynomial(s * s, tuple(1.0 / (2 * term + 1) for term in reversed(range(12))))
    return 2.0 * s * series + exponent * _LN2_LOW + exponent * _LN2_HIGH
