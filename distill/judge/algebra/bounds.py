"""Bounds: numbers for closed forms, each with the most it can be off.

Enough to tell two forms apart for certain; never enough to call them equal. Every variable
is given a positive value that follows from its name.
"""

import cmath
import math
import zlib
from collections.abc import Callable

from distill.judge.algebra.sums import Atom, Sum, Value

ROUNDING = 2.0**-50
"""Relative error allowed for one floating point operation: eight times what it can be."""
Near = tuple[complex, float]
"""A number and the most it can be off."""
NEARBY = 1e-6
CONSTANTS = {"pi": complex(math.pi), "e": complex(math.e), "i": 1j, "degree": complex(math.pi / 180)}
SMOOTH: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda z: 1 / cmath.tan(z),
    "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z),
    "asin": cmath.asin,
    "acos": cmath.acos,
    "atan": cmath.atan,
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "log": cmath.log,
    "abs": lambda z: complex(abs(z)),
}
"""Functions whose numbers are trusted to tell two values apart."""


def nonzero(terms: Sum, point: int) -> bool:
    """True when a sum is certainly not zero with the variables at one point."""
    near = _sum_number(terms, point)
    return near is not None and abs(near[0]) > 4 * near[1]


def nearly(value: Value, point: int) -> Near | None:
    above, below = _sum_number(value.num, point), _sum_number(value.den, point)
    if above is None or below is None or abs(below[0]) <= 4 * below[1]:
        return None
    quotient = above[0] / below[0]
    relative = below[1] / abs(below[0]) + ROUNDING
    return quotient, above[1] / abs(below[0]) + abs(quotient) * 2 * relative


def _sum_number(terms: Sum, point: int) -> Near | None:
    """Value and bound of its error, both carried through every operation."""
    total, error = 0j, 0.0
    try:
        for monomial, factor in terms.items():
            product, relative = complex(float(factor)), ROUNDING
            for one, times in monomial:
                near = _atom_number(one, point)
                if near is None or near[0] == 0 or abs(near[0]) <= 4 * near[1]:
                    return None
                product *= near[0] ** float(times)
                relative += abs(float(times)) * 2 * near[1] / abs(near[0]) + ROUNDING
            total += product
            error += abs(product) * relative + abs(total) * ROUNDING
    except (OverflowError, ZeroDivisionError):
        return None
    return (total, error) if cmath.isfinite(total) and math.isfinite(error) else None


def _atom_number(one: Atom, point: int) -> Near | None:
    if one.kind == "variable":
        return complex(0.6 + zlib.crc32(f"{point}{one.key}".encode()) / 2**32), 0.0
    if one.kind == "prime":
        return complex(float(int(one.key[2:]))), float(int(one.key[2:])) * ROUNDING
    if one.kind == "constant":
        return CONSTANTS[one.key], abs(CONSTANTS[one.key]) * ROUNDING
    inner = nearly(one.inner, point) if one.inner is not None else None
    if inner is None or one.kind == "root":
        return inner
    if one.kind == "power":
        assert one.exponent is not None
        times = nearly(one.exponent, point)
        if times is None or abs(inner[0]) <= 4 * inner[1]:
            return None
        logarithm = cmath.log(inner[0])
        spread = abs(logarithm) * times[1] + abs(times[0]) * (2 * inner[1] / abs(inner[0]) + ROUNDING * 2)
        result = cmath.exp(times[0] * logarithm)
        return (result, abs(result) * (2 * spread + ROUNDING)) if spread < 0.1 else None
    if one.kind not in SMOOTH:
        return None
    try:
        result, nearby = SMOOTH[one.kind](inner[0]), SMOOTH[one.kind](inner[0] * (1 + NEARBY) + NEARBY)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    # The slope is measured beside the point; four times it bounds it where the error is small.
    slope = abs(nearby - result) / abs(inner[0] * NEARBY + NEARBY)
    return (result, 4 * slope * inner[1] + 4 * abs(result) * ROUNDING + ROUNDING) if inner[1] < NEARBY else None
