r"""Forms: arithmetic on closed forms; a value is a ratio of two sums.

Two values are equal when the difference, multiplied across, is the empty sum, and different
when it is certainly not zero at a point (`bounds`). What is neither is left open:
sqrt(3+2 sqrt(2)) = 1+sqrt(2), say. Nothing is rounded.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache

from distill.judge.algebra.bounds import POINTS, nearly, nonzero, real, vanishes
from distill.judge.algebra.sums import (
    EULER,
    IMAGINARY,
    ONE,
    Atom,
    Monomial,
    NoValueError,
    Sum,
    TooLargeError,
    Value,
    add_sums,
    check_bits,
    monomial_key,
    multiply_sums,
    negative_sum,
    reduced,
    sum_key,
    sum_power,
    value_key,
)

LARGEST_TRIED = 10_000
"""Trial divisors; a cofactor with none of them stands for itself."""
LARGEST_FACTORIAL = 3000
DIGITS, MOST_DIGITS = 60, 1000
"""Decimal digits to which a difference must vanish, beyond those its own spelling has."""
ROUNDED: dict[str, Callable[[Fraction], Fraction | int]] = {"abs": abs, "floor": math.floor, "ceil": math.ceil}


def rational(number: Fraction | int) -> Value:
    """A number."""
    number = Fraction(number)
    check_bits(number)
    return Value({(): number} if number else {}, ONE)


def atom(one: Atom) -> Value:
    """A constant or variable."""
    return Value({((one, Fraction(1)),): Fraction(1)}, ONE)


def variable(name: str) -> Value:
    """An unknown."""
    return atom(Atom("variable", f"x:{name}"))


def add(left: Value, right: Value) -> Value:
    """left + right."""
    if left.den == right.den:
        return _ratio(add_sums(left.num, right.num), left.den)
    return _ratio(
        add_sums(multiply_sums(left.num, right.den), multiply_sums(right.num, left.den)),
        multiply_sums(left.den, right.den),
    )


def negative(value: Value) -> Value:
    """-value."""
    return Value({monomial: -factor for monomial, factor in value.num.items()}, value.den)


def multiply(left: Value, right: Value) -> Value:
    """left * right."""
    return _ratio(multiply_sums(left.num, right.num), multiply_sums(left.den, right.den))


def divide(left: Value, right: Value) -> Value:
    """left / right. Raises NoValueError when right is zero."""
    return _ratio(multiply_sums(left.num, right.den), multiply_sums(left.den, right.num))


def power(base: Value, exponent: Value) -> Value:
    """base ^ exponent, the principal value. Raises NoValueError for fractional powers of negative numbers."""
    known = exponent.rational
    if known is not None:
        return _whole_power(base, int(known)) if known.denominator == 1 else _fractional(base, known, odd_roots=False)
    if exponent.den != ONE:
        return atom(Atom("power", f"({value_key(base)})^({value_key(exponent)})", base, exponent))
    # b^(c + 2x + y) is b^c * (b^x)^2 * b^y, and 4^x is (2^x)^2: one spelling for all of these
    result = rational(1)
    for monomial, factor in exponent.num.items():
        if not monomial:
            result = multiply(result, power(base, rational(factor)))
            continue
        for prime, times in _prime_bases(base):
            # only a real power may be taken out of an exponent in pieces
            whole = Fraction(1) if real(exponent) else factor
            inner = Value({monomial: whole}, ONE)
            one = Atom("power", f"({value_key(prime)})^({value_key(inner)})", prime, inner)
            result = multiply(result, Value({((one, factor / whole * times),): Fraction(1)}, ONE))
    return result


def root(value: Value, index: int) -> Value:
    r"""\sqrt[index]{value}: the real root of a negative number where the index is odd."""
    return _fractional(value, Fraction(1, index), odd_roots=True)


def function(name: str, argument: Value) -> Value:
    """A named function; exact where its value is rational or follows from parity or the primes of the argument."""
    known = argument.rational
    if known is not None and name in ROUNDED:
        return rational(ROUNDED[name](known))
    if name == "log" and known is not None and known > 0:
        logs: Sum = {((_applied("log", rational(prime)), Fraction(1)),): times for prime, times in _primes(known)}
        return Value(logs, ONE)
    if name == "log" and argument == atom(EULER):
        return rational(1)
    if name in ("sin", "tan", "cos") and argument.num and argument.num[_first(argument.num)] < 0:
        mirrored = atom(_applied(name, negative(argument)))
        return mirrored if name == "cos" else negative(mirrored)
    return atom(_applied(name, argument))


def factorial(value: Value) -> Value:
    """n! of a small number, or of an unknown."""
    known = value.rational
    if known is None:
        return atom(_applied("!", value))
    if known.denominator != 1 or known < 0:
        raise NoValueError("a factorial of no whole number")
    if known > LARGEST_FACTORIAL:
        raise TooLargeError(f"{known}!")
    return rational(math.factorial(int(known)))


def binomial(top: Value, bottom: Value) -> Value:
    """Of two whole numbers."""
    n, k = top.rational, bottom.rational
    if n is None or k is None or n.denominator != 1 or k.denominator != 1 or min(n, k) < 0:
        raise NoValueError("a binomial of unknowns")
    if n > LARGEST_FACTORIAL:
        raise TooLargeError(f"binomial of {n}")
    return rational(math.comb(int(n), int(k)))


def equal(left: Value, right: Value) -> bool | None:
    """True when it is proven, False when they differ for certain, None when neither was found out."""
    difference = add_sums(multiply_sums(left.num, right.den), negative_sum(multiply_sums(right.num, left.den)))
    if not difference:
        return True
    if all(one.kind == "prime" for monomial in difference for one, _ in monomial):
        return False  # surds have one spelling, however large
    if any(nonzero(difference, point) for point in POINTS):
        return False
    return vanishes(difference, min(DIGITS + len(sum_key(difference)), MOST_DIGITS))


def proportional(left: Value, right: Value) -> bool | None:
    """Whether one is the other times a number that is not zero; None when not found out."""
    if not left.num or not right.num:
        return left.num == right.num
    first, second = multiply_sums(left.num, right.den), multiply_sums(right.num, left.den)
    lead = _first(first)
    if lead not in second:
        return None
    scaled = {monomial: factor * first[lead] / second[lead] for monomial, factor in second.items()}
    return True if scaled == first else None


def ratio_sign(left: Value, right: Value) -> int:
    """Sign of the number by which two proportional values differ."""
    first, second = multiply_sums(left.num, right.den), multiply_sums(right.num, left.den)
    return 1 if first[_first(first)] / second[_first(first)] > 0 else -1


def linear(value: Value) -> bool:
    """True for a polynomial of degree one in its variables, coefficients rational."""
    simple = (
        not monomial or (len(monomial) == 1 and monomial[0][0].kind == "variable" and monomial[0][1] == 1)
        for monomial in value.num
    )
    return value.den == ONE and all(simple)


def order(left: Value, right: Value) -> int | None:
    """-1, 0 or 1 for two real numbers; None when it was not found out."""
    same = equal(left, right)
    if same:
        return 0
    near = nearly(add(left, negative(right)), 1)
    if same is None or near is None or abs(near[0].imag) > near[1] or abs(near[0].real) <= near[1]:
        return None
    return 1 if near[0].real > 0 else -1


def _ratio(num: Sum, den: Sum) -> Value:
    """The value num / den, a denominator of one term moved into the numerator."""
    if not den:
        raise NoValueError("division by zero")
    if len(den) > 1 or den == ONE:
        return Value(num, den)
    ((monomial, factor),) = den.items()
    turned: dict[Atom, Fraction] = {}
    below = ONE
    for one, times in monomial:
        if one.kind == "root":  # 1/S^t = S^(1-t)/S
            assert one.inner is not None
            turned[one] = 1 - times
            below = multiply_sums(below, one.inner.num)
        else:
            turned[one] = -times
    above = multiply_sums(num, reduced(turned, 1 / factor))
    return Value(above, ONE) if below == ONE else _ratio(above, below)


def _whole_power(base: Value, times: int) -> Value:
    if times < 0:
        return divide(rational(1), _whole_power(base, -times))
    if times == 0 and not base.num:
        raise NoValueError("0^0")
    return _ratio(sum_power(base.num, times), sum_power(base.den, times))


def _fractional(base: Value, times: Fraction, *, odd_roots: bool) -> Value:
    """base ^ times for a fraction, monomials taken apart, sums kept under the root."""
    if not base.num:
        if times < 0:
            raise NoValueError("division by zero")
        return base
    if times < 0:
        return divide(rational(1), _fractional(base, -times, odd_roots=odd_roots))
    if base.den != ONE:
        return divide(_fractional_sum(base.num, times, odd_roots), _positive_denominator(base.den, times, odd_roots))
    return _fractional_sum(base.num, times, odd_roots)


def _positive_denominator(terms: Sum, times: Fraction, odd_roots: bool) -> Value:
    """The root of a quotient is the quotient of the roots only where the denominator is positive."""
    near = nearly(Value(terms, ONE), 1)
    if near is None or near[0].real <= near[1] or Value(terms, ONE).variables:
        raise NoValueError("a root of a quotient of unknown sign")
    return _fractional_sum(terms, times, odd_roots)


def _fractional_sum(terms: Sum, times: Fraction, odd_roots: bool) -> Value:
    """A sum stays under the root but for its content; of one term, what is positive comes out."""
    sign = ONE
    if odd_roots and times.denominator % 2 and _is_negative(terms):
        terms, sign = negative_sum(terms), {(): Fraction(-1) ** times.numerator}
    if len(terms) > 1:
        content = _content(terms)
        root_of = Value({monomial: factor / content for monomial, factor in terms.items()}, ONE)
        return Value(multiply_sums(multiply_sums(_rooted(root_of, times), _surd(content, times)), sign), ONE)
    ((monomial, factor),) = terms.items()
    outside = {one: each * times for one, each in monomial if _comes_out(one, each, times)}
    inside = tuple((one, each) for one, each in monomial if one not in outside)
    if factor < 0:
        if times.denominator != 2 or monomial:
            raise NoValueError("a fractional power of a negative number")
        sign = reduced({IMAGINARY: Fraction(times.numerator)}, Fraction(1))
    found = multiply_sums(multiply_sums(reduced(outside, Fraction(1)), _surd(abs(factor), times)), sign)
    rest = _rooted(Value({inside: Fraction(1)}, ONE), times) if inside else ONE
    return Value(multiply_sums(found, rest), ONE)


def _is_negative(terms: Sum) -> bool:
    """The sign of a constant; of anything else the sign of its first term, which is only its spelling."""
    value = Value(terms, ONE)
    near = None if value.variables else nearly(value, 1)
    if near is not None and abs(near[0].imag) <= near[1] < abs(near[0].real):
        return bool(near[0].real < 0)
    return terms[_first(terms)] < 0


def _comes_out(one: Atom, each: Fraction, times: Fraction) -> bool:
    """Whether (a^each * b)^times is a^(each * times) * b^times: a is not negative, or an unknown taken to be none."""
    if one == IMAGINARY:
        raise NoValueError("a root of an imaginary number")
    if one.kind == "variable":  # but sqrt(x^2) is |x|
        return bool(each.numerator % 2 or times.denominator % 2)
    if one.kind == "power":
        assert one.inner is not None
        base = one.inner.rational
        return ((base is not None and base > 0) or one.inner == atom(EULER)) and real(atom(one))
    return one.kind in ("prime", "constant", "abs") or (one.kind == "root" and each.denominator % 2 == 0)


def _rooted(inner: Value, times: Fraction) -> Sum:
    return reduced({Atom("root", f"r:{sum_key(inner.num)}", inner): times}, Fraction(1))


def _surd(number: Fraction, times: Fraction) -> Sum:
    """A positive number to a fractional power."""
    exponents = {Atom("prime", f"p:{prime}"): many * times for prime, many in _primes(number)}
    return reduced(exponents, Fraction(1))


@cache
def _small_primes() -> tuple[int, ...]:
    return tuple(
        each for each in range(2, LARGEST_TRIED) if all(each % small for small in range(2, math.isqrt(each) + 1))
    )


def _primes(number: Fraction) -> list[tuple[int, Fraction]]:
    """Prime factors of a positive rational with their powers; a large cofactor stands for itself."""
    found: dict[int, int] = {}
    for side, sign in ((number.numerator, 1), (number.denominator, -1)):
        for prime in _small_primes():
            if prime * prime > side:
                break
            while side % prime == 0:
                side //= prime
                found[prime] = found.get(prime, 0) + sign
        if side > 1:
            found[side] = found.get(side, 0) + sign
    return [(prime, Fraction(times)) for prime, times in found.items()]


def _prime_bases(base: Value) -> list[tuple[Value, Fraction]]:
    known = base.rational
    if known is None or known <= 0:
        return [(base, Fraction(1))]
    return [(rational(prime), times) for prime, times in _primes(known)]


def _first(terms: Sum) -> Monomial:
    """The monomial whose sign is that of the sum, as far as spelling goes."""
    return min(terms, key=monomial_key)


def _content(terms: Sum) -> Fraction:
    factors = list(terms.values())
    top = math.gcd(*(factor.numerator for factor in factors))
    return Fraction(top, math.lcm(*(factor.denominator for factor in factors)))


def _applied(name: str, argument: Value) -> Atom:
    return Atom(name, f"{name}({value_key(argument)})", argument)
