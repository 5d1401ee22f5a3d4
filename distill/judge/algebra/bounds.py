"""Bounds: numbers for closed forms, each with the most it can be off.

In doubles they tell two forms apart for certain and cheaply. To many more digits than the text
of an answer could spell they also say that a difference is nothing: two constants that agree so
far, or two expressions that do at several points, negative ones among them, are the same.
What is not covered: functions of whole numbers only, and points on a pole.
"""

import cmath
import math
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from distill.judge.algebra.sums import IMAGINARY, Atom, Sum, Value

LARGEST_EXPONENT = 1e5
"""Natural logarithm of the largest power worked out to many digits."""
POINTS, NEGATIVE_POINTS = (1, 2), (-1, -2)
"""Each variable is given a value of its own at every point."""
Near = tuple[Any, Any]
"""A complex number and the most it can be off, in doubles or to many digits."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How numbers are worked out: in doubles (cmath), or to many digits (mpmath)."""

    rounding: Any
    """Relative error allowed for one operation: eight times what it can be."""
    nearby: Any
    """How far beside a place a function's slope is measured."""
    number: Callable[[Fraction], Any]
    power: Callable[[Any, Fraction], Any]
    log: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    finite: Callable[[Any], bool]
    constants: dict[str, Any]
    smooth: dict[str, Callable[[Any], Any]]
    """Functions whose numbers are trusted."""


def _doubles() -> Arithmetic:
    names = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "log")
    return Arithmetic(
        rounding=2.0**-50,
        nearby=1e-6,
        number=lambda fraction: complex(float(fraction)),
        power=lambda z, times: z ** float(times),
        log=cmath.log,
        exp=cmath.exp,
        finite=lambda z: cmath.isfinite(z),
        constants={"pi": complex(math.pi), "e": complex(math.e), "i": 1j, "degree": complex(math.pi / 180)},
        smooth={**{name: getattr(cmath, name) for name in names}, **_derived(cmath.sin, cmath.cos)},
    )


def many_digits(digits: int) -> Arithmetic:
    """Arithmetic to so many digits; one context a thread, as mpmath's are not to be shared."""
    kept: dict[int, Arithmetic] = CONTEXTS.__dict__.setdefault("kept", {})
    if digits not in kept:
        from mpmath.ctx_mp import MPContext

        context = MPContext()
        context.dps = digits
        names = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "log")
        kept[digits] = Arithmetic(
            rounding=context.mpf(2) ** (3 - context.prec),
            nearby=context.mpf(10) ** -(digits // 3),
            number=lambda fraction: context.mpc(context.mpf(fraction.numerator) / fraction.denominator),
            power=lambda z, times: z ** (context.mpf(times.numerator) / times.denominator),
            log=context.log,
            exp=context.exp,
            finite=context.isfinite,
            constants={"pi": +context.pi, "e": +context.e, "i": context.mpc(0, 1), "degree": context.pi / 180},
            smooth={
                **{name: getattr(context, name) for name in names},
                **_derived(context.sin, context.cos),
                "!": lambda z: context.gamma(z + 1),
            },
        )
    return kept[digits]


def _derived(sin: Callable[[Any], Any], cos: Callable[[Any], Any]) -> dict[str, Callable[[Any], Any]]:
    return {
        "cot": lambda z: cos(z) / sin(z),
        "sec": lambda z: 1 / cos(z),
        "csc": lambda z: 1 / sin(z),
        "abs": lambda z: abs(z) + 0 * z,
    }


CONTEXTS = threading.local()
DOUBLES = _doubles()


def nonzero(terms: Sum, point: int, arithmetic: Arithmetic = DOUBLES) -> bool:
    """True when a sum is certainly not zero with the variables at one point."""
    near = _sum_number(terms, point, arithmetic)
    return near is not None and bool(abs(near[0]) > 4 * near[1])


def vanishes(terms: Sum, digits: int) -> bool | None:
    """True when a sum is zero to so many digits, at every point if it has variables; False when it is not.

    None when it has no number, or is zero where the variables are positive but not elsewhere.
    """
    arithmetic = many_digits(digits)
    variables = Value(terms, terms).variables
    for point in (*POINTS, *NEGATIVE_POINTS) if variables else (1,):
        near = _sum_number(terms, point, arithmetic)
        if near is None:
            return None
        if abs(near[0]) > 4 * near[1]:
            return False if point > 0 else None
        if near[1] > arithmetic.nearby:
            return None  # too coarse to say
    return True


def nearly(value: Value, point: int, arithmetic: Arithmetic = DOUBLES) -> Near | None:
    """The number a value is with the variables at one point."""
    above, below = _sum_number(value.num, point, arithmetic), _sum_number(value.den, point, arithmetic)
    if above is None or below is None or abs(below[0]) <= 4 * below[1]:
        return None
    quotient = above[0] / below[0]
    relative = below[1] / abs(below[0]) + arithmetic.rounding
    return quotient, above[1] / abs(below[0]) + abs(quotient) * 2 * relative


def _sum_number(terms: Sum, point: int, arithmetic: Arithmetic) -> Near | None:
    """Value and bound of its error, both carried through every operation."""
    total, error = arithmetic.number(Fraction(0)), 0 * arithmetic.rounding
    try:
        for monomial, factor in terms.items():
            product = arithmetic.number(factor)
            off = abs(product) * arithmetic.rounding
            for one, times in monomial:
                near = _power_number(one, times, point, arithmetic)
                if near is None:
                    return None
                off = abs(product) * near[1] + (abs(near[0]) + near[1]) * off
                product *= near[0]
                off += abs(product) * arithmetic.rounding
            total += product
            error += off + abs(total) * arithmetic.rounding
    except (OverflowError, ZeroDivisionError, ValueError):
        return None
    return (total, error) if arithmetic.finite(total) and arithmetic.finite(error) else None


def _power_number(one: Atom, times: Fraction, point: int, arithmetic: Arithmetic) -> Near | None:
    """An atom to a power; the real root of a negative number where the root is odd."""
    near = _atom_number(one, point, arithmetic)
    if near is None:
        return None
    if abs(near[0]) <= 4 * near[1]:  # as good as zero
        return (0 * near[0], (5 * near[1]) ** float(times)) if times > 0 else None
    base, sign = _on_axis(near), 1
    if times.denominator > 1 and times.denominator % 2 and base.real < 0 and base.imag == 0:
        base, sign = -base, (-1) ** times.numerator
    spread = abs(float(times)) * 2 * near[1] / abs(base)
    growth = 1 + abs(float(times)) * (1 + abs(arithmetic.log(base)))
    powered = sign * arithmetic.power(base, times)
    return powered, abs(powered) * (spread + growth * arithmetic.rounding)


def _on_axis(near: Near) -> Any:
    """The number without an imaginary part that is no more than its error, so that no cut is crossed by rounding."""
    return near[0] - near[0].imag * 1j if abs(near[0].imag) <= 4 * near[1] else near[0]


def _atom_number(one: Atom, point: int, arithmetic: Arithmetic) -> Near | None:
    if one.kind == "variable" or one.kind.startswith("call "):  # an unknown function: a value of its own
        size = Fraction(6, 10) + Fraction(zlib.crc32(f"{abs(point)}{one.key}".encode()), 2**32)
        return arithmetic.number(size if point > 0 else -size), 0 * arithmetic.rounding
    if one.kind == "prime":
        prime = arithmetic.number(Fraction(int(one.key[2:])))
        return prime, abs(prime) * arithmetic.rounding
    if one.kind == "constant":
        constant = arithmetic.constants[one.key]
        return constant, abs(constant) * arithmetic.rounding
    inner = nearly(one.inner, point, arithmetic) if one.inner is not None else None
    if inner is None or one.kind == "root":
        return inner
    return _symbolic_power(one, inner, point, arithmetic) if one.kind == "power" else _applied(one, inner, arithmetic)


def _symbolic_power(one: Atom, inner: Near, point: int, arithmetic: Arithmetic) -> Near | None:
    assert one.exponent is not None
    times, base = nearly(one.exponent, point, arithmetic), _on_axis(inner)
    if times is None or abs(base) <= 4 * inner[1] or (base.real < 0 and one.exponent.variables):
        return None  # (-1)^n is meant for whole numbers
    logarithm = arithmetic.log(base)
    if abs(times[0] * logarithm) > LARGEST_EXPONENT:
        return None
    spread = abs(logarithm) * times[1] + abs(times[0]) * (2 * inner[1] / abs(base) + arithmetic.rounding * 2)
    result = arithmetic.exp(times[0] * logarithm)
    return (result, abs(result) * (2 * spread + 2 * arithmetic.rounding)) if spread < 0.1 else None


def _applied(one: Atom, inner: Near, arithmetic: Arithmetic) -> Near | None:
    function, z = arithmetic.smooth.get(one.kind), _on_axis(inner)
    if function is None or inner[1] >= arithmetic.nearby:
        return None
    if one.kind in ("asin", "acos") and inner[1] and abs(1 - z * z) <= arithmetic.nearby**0.5:
        return None  # the slope has no bound there
    step = z * arithmetic.nearby + arithmetic.nearby
    result = function(z)
    # The slope is measured beside the place; four times it bounds it where the error is small.
    slope = abs(function(z + step) - result) / abs(step)
    rounding = (4 * abs(result) + 1) * arithmetic.rounding
    return result, 4 * slope * inner[1] + rounding


def real(one: Value) -> bool:
    """Whether nothing in it is imaginary, as far as its spelling goes."""
    return all(_real(atom) for part in (one.num, one.den) for monomial in part for atom, _ in monomial)


def _real(one: Atom) -> bool:
    return one != IMAGINARY and all(inner is None or real(inner) for inner in (one.inner, one.exponent))
