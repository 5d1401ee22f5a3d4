r"""Sums: polynomials with rational coefficients in atoms, such that equal ones are equal data.

An atom is a variable, a prime under a root, pi, e, i, a degree, the root of a sum, a power
with a symbolic exponent or a function of a value. Exponents are fractions; those of primes
and roots are kept in [0, 1). Distinct monomials of primes are then linearly independent over
the rationals (Besicovitch 1940), so a sum of surds has one spelling. Work is bounded: what
would grow past the limits is `TooLargeError`.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

MOST_TERMS = 400
"""Terms of one sum."""
MOST_TIMES = 32
"""Highest power that a sum is raised to."""
MOST_BITS = 1 << 15
"""Bits of one numerator or denominator: 2006! has 19,000."""
LONGEST_KEY = 4000
"""Characters that name an atom and all it is made of."""


class NoValueError(Exception):
    """The expression has no value, such as 1/0, or none that is agreed upon, such as (-8)^{1/3}."""


class TooLargeError(Exception):
    """Working it out would take more than it is worth."""


class Atom:
    """What a monomial is made of; equal keys, equal atoms."""

    __slots__ = ("exponent", "inner", "key", "kind")

    def __init__(self, kind: str, key: str, inner: "Value | None" = None, exponent: "Value | None" = None) -> None:
        """`kind`: variable, prime, constant, root (of `inner`), power (`inner` to `exponent`), or a function's name."""
        if len(key) > LONGEST_KEY:
            raise TooLargeError("an expression of many parts")
        self.kind, self.key, self.inner, self.exponent = kind, key, inner, exponent

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Atom) and self.key == other.key


Monomial = tuple[tuple[Atom, Fraction], ...]
Sum = dict[Monomial, Fraction]
"""Coefficients by monomial, none of them zero."""
ONE: Sum = {(): Fraction(1)}


@dataclass(frozen=True, slots=True)
class Value:
    """A ratio of sums; a denominator of one term is always 1."""

    num: Sum
    den: Sum

    @property
    def rational(self) -> Fraction | None:
        """The number it is, when it is a rational one."""
        if not self.num:
            return Fraction(0)
        return self.num.get(()) if len(self.num) == 1 and self.den == ONE else None

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables in it."""
        return frozenset(
            name for part in (self.num, self.den) for monomial in part for name in variable_names(monomial)
        )


PI, EULER, IMAGINARY, DEGREE = (Atom("constant", name) for name in ("pi", "e", "i", "degree"))


def add_sums(left: Sum, right: Sum) -> Sum:
    total = dict(left)
    for monomial, factor in right.items():
        factor += total.pop(monomial, 0)
        if factor:
            total[monomial] = factor
    if len(total) > MOST_TERMS:
        raise TooLargeError("a sum of many terms")
    return total


def negative_sum(terms: Sum) -> Sum:
    return {monomial: -factor for monomial, factor in terms.items()}


def multiply_sums(left: Sum, right: Sum) -> Sum:
    if left == ONE:
        return right
    if right == ONE:
        return left
    if len(left) * len(right) > MOST_TERMS * 4:
        raise TooLargeError("a product of long sums")
    product: Sum = {}
    for one, first in left.items():
        for other, second in right.items():
            exponents = dict(one)
            for which, times in other:
                exponents[which] = exponents.get(which, Fraction(0)) + times
            product = add_sums(product, reduced(exponents, first * second))
    return product


def reduced(exponents: dict[Atom, Fraction], factor: Fraction) -> Sum:
    """A monomial with powers of i, of primes and of roots brought down to their least."""
    kept: list[tuple[Atom, Fraction]] = []
    grown = ONE
    for one, times in exponents.items():
        if one == IMAGINARY:
            turns = int(times) % 4
            factor, times = (-factor if turns > 1 else factor), Fraction(turns % 2)
        elif one.kind == "prime":
            whole = math.floor(times)
            if whole:
                factor *= integer_power(Fraction(int(one.key[2:])), whole)
            times -= whole
        elif one.kind == "root" and times >= 1:
            assert one.inner is not None
            whole = math.floor(times)
            grown, times = multiply_sums(grown, sum_power(one.inner.num, whole)), times - whole
        if times:
            kept.append((one, times))
    check_bits(factor)
    kept.sort(key=lambda pair: pair[0].key)
    alone = {tuple(kept): factor} if factor else {}
    return alone if grown == ONE else multiply_sums(grown, alone)


def sum_power(terms: Sum, times: int) -> Sum:
    """A sum to a whole power above zero."""
    if not terms:
        return terms
    if len(terms) == 1:
        ((monomial, factor),) = terms.items()
        return reduced({one: each * times for one, each in monomial}, integer_power(factor, times))
    if times > MOST_TIMES:
        raise TooLargeError("a high power of a sum")
    result = ONE
    for _ in range(times):
        result = multiply_sums(result, terms)
    return result


def integer_power(base: Fraction, times: int) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base not in (0, 1, -1) and bits * abs(times) > MOST_BITS * 2:
        raise TooLargeError("a high power")
    if base in (1, -1):
        return base if times % 2 else Fraction(1)
    return Fraction(base**times)


def monomial_key(monomial: Monomial) -> str:
    return "*".join(f"{one.key}^{times}" for one, times in monomial)


def sum_key(terms: Sum) -> str:
    return "+".join(sorted(f"{factor}*{monomial_key(monomial)}" for monomial, factor in terms.items()))


def value_key(value: Value) -> str:
    return f"{sum_key(value.num)}/{sum_key(value.den)}"


def variable_names(monomial: Monomial) -> list[str]:
    names = []
    for one, _ in monomial:
        names += [one.key[2:]] if one.kind == "variable" else []
        for inner in (one.inner, one.exponent):
            names += inner.variables if inner is not None else ()
    return names


def check_bits(number: Fraction) -> None:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > MOST_BITS:
        raise TooLargeError("a number of many digits")
