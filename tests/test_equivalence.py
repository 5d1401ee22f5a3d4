"""Equivalence: exact on numbers and closed forms, silent where algebra is needed, never fooled by rounding."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.judge import equivalence, notation, numerals
from tests.answer_pairs import PAIRS

CASES = [
    pytest.param(*row, id=f"{group}: {row[0][:40]} | {row[1][:40]}") for group, rows in PAIRS.items() for row in rows
]


def status(gold, said):
    ruling = equivalence.compare(equivalence.gold_answer(notation.normalize(gold)), notation.normalize(said))
    return ruling.status if ruling else None


@pytest.mark.parametrize(("gold", "said", "expected"), CASES)
def test_two_answers_are(gold, said, expected):
    assert status(gold, said) == expected


ONE_WAY = ("percent", "options", "bases")
"""A missing percent sign or base is forgiven, not an added one; what stands behind an option is no gold answer."""
SYMMETRIC = [
    (*row,) for group, rows in PAIRS.items() if group not in ONE_WAY for row in rows if row[2] in ("correct", "wrong")
]


@pytest.mark.parametrize(("gold", "said", "expected"), SYMMETRIC)
def test_the_other_way_round_they_are_never_the_opposite(gold, said, expected):
    opposite = {"correct": "wrong", "wrong": "correct"}[expected]
    assert status(said, gold) != opposite


def test_only_a_set_or_list_is_several_answers():
    several = {text: equivalence.gold_answer(notation.normalize(text)).several for text in
               ("1,2", r"\{1,2\}", r"1 \pm 2", "(1,2)", "12", "1,000", "x^2", r"2^{10^9}, 1")}  # fmt: skip
    assert list(several.values()) == [True, True, True, False, False, False, False, False]


def test_computer_algebra_is_asked_in_latex_and_told_what_was_readable():
    gold = equivalence.gold_answer(notation.normalize(r"\begin{pmatrix} 1 \\ \sin 3 \end{pmatrix}"))
    asked = equivalence.asked_of_algebra(gold, r"\int x")
    assert asked["gold"] == r"\begin{pmatrix} 1 \\ \sin 3 \end{pmatrix}"
    assert (asked["gold_unread"], asked["said_unread"]) == ("undecided", "unparsed")
    turned = equivalence.asked_of_algebra(equivalence.gold_answer(r"\cos 15°"), "x")
    assert turned["gold"] == r"\cos (15\cdot\frac{\pi}{180})"
    number = equivalence.asked_of_algebra(equivalence.gold_answer("25%"), "5 cm")
    assert (number["gold"], number["said"]) == ("25", "5")
    unread = equivalence.asked_of_algebra(equivalence.gold_answer(r"\int x"), "5")
    assert (unread["gold_unread"], unread["said_unread"]) == ("gold_bad", "undecided")


def test_what_could_explode_is_kept_from_algebra():
    hostile = ("10^{10^{10}}", "(10^8)!", "2^{1000000007}-1", "9^9^9^9", "100000!", r"\sum_{k=1}^{n} k", "3!!")
    assert all(equivalence.explosive(notation.normalize(text)) for text in hostile)
    deepest = equivalence.DEEPEST_FOR_ALGEBRA
    assert [bool(equivalence.explosive("(" * depth + ")" * depth)) for depth in (deepest, deepest + 1)] == [False, True]
    assert not equivalence.explosive("()" * (deepest + 1))
    longest = equivalence.LONGEST_FOR_ALGEBRA
    assert [bool(equivalence.explosive("x" * length)) for length in (longest, longest + 1)] == [False, True]


def test_ordinary_mathematics_is_let_through():
    ordinary = ("2x^9 - 8x^7", r"\frac{\sqrt{3}}{2}", "x^2y^3z^4", "10^{2020}", "5!", r"e^{x^2}", "(-\\infty, 3]")
    assert not any(equivalence.explosive(notation.normalize(text)) for text in ordinary)


numbers = st.fractions(max_denominator=10**6)
roots = st.integers(2, 50)


def written(value: Fraction, style: int) -> str:
    """One of several ways to write a fraction."""
    sign = "-" if value < 0 else ""
    top, bottom = abs(value.numerator), value.denominator
    ways = (
        f"{value}", f"{sign}\\frac{{{top}}}{{{bottom}}}", f"\\dfrac{{{value.numerator}}}{{{bottom}}}",
        f"${value}$", f"\\left({value}\\right)", f"{sign}{top // bottom} + ({sign}{top % bottom}/{bottom})",
        f"{2 * value.numerator}/{2 * bottom}", f"x = {value}", f"{sign}{top} \\cdot \\frac{{1}}{{{bottom}}}",
    )  # fmt: skip
    return ways[style % len(ways)]


@given(numbers, st.integers(0, 8), st.integers(0, 8))
def test_every_way_to_write_a_number_is_that_number(value, one, other):
    assert status(written(value, one), written(value, other)) == "correct"


@given(numbers, numbers, st.integers(0, 8), st.integers(0, 8))
def test_equality_of_numbers_is_symmetric_and_exact(left, right, one, other):
    expected = "correct" if left == right else "wrong"
    assert status(written(left, one), written(right, other)) == expected
    assert status(written(right, other), written(left, one)) == expected


@given(numbers, roots, numbers, roots)
def test_sums_of_surds_are_compared_exactly(a, m, b, n):
    one = f"({a})\\sqrt{{{m}}} + ({b})\\sqrt{{{n}}}"
    assert status(one, f"({b})\\sqrt{{{n}}} + \\frac{{({a}) \\cdot {m}}}{{\\sqrt{{{m}}}}}") == "correct"
    assert status(one, f"({a})\\sqrt{{{m}}} + ({b + 1})\\sqrt{{{n}}}") == "wrong"


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6), st.randoms())
def test_a_list_is_the_same_in_any_order_and_a_tuple_is_not(items, random):
    shuffled = random.sample(items, len(items))
    assert status(", ".join(map(str, items)), "\\{" + ",".join(map(str, shuffled)) + "\\}") == "correct"
    tuples = [f"({', '.join(map(str, each))})" for each in (items, shuffled)]
    assert status(*tuples) == ("correct" if items == shuffled else "wrong")


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=4), st.integers(-9, 9))
def test_a_polynomial_equals_its_factors_multiplied_out(zeros, shift):
    coefficients = [1]
    for zero in zeros:
        coefficients = [a - zero * b for a, b in zip([*coefficients, 0], [0, *coefficients], strict=True)]
    degree = len(coefficients) - 1
    expanded = "+".join(f"({factor})x^{{{degree - place}}}" for place, factor in enumerate(coefficients))
    factored = "".join(f"(x-({zero}))" for zero in zeros)
    assert status(expanded, factored) == "correct"
    assert status(expanded, f"{factored} + ({shift})") == ("correct" if shift == 0 else "wrong")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_decimals_and_thousands_separators_are_exact(number):
    read = numerals.quantity(notation.normalize(f"{number:,f}"))
    assert read is not None
    assert read.value == Fraction(number)


@given(st.integers(1, 10**9 - 1))
def test_numbers_in_words_are_read(number):
    assert status(str(number), in_words(number)) == "correct"


def in_words(number: int) -> str:
    """English, written the other way round than it is read."""
    for scale, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= scale:
            rest = f" {in_words(number % scale)}" if number % scale else ""
            return f"{in_words(number // scale)} {name}{rest}"
    if number >= 20:
        return numerals.TENS[number // 10 - 2] + (f"-{numerals.ONES[number % 10]}" if number % 10 else "")
    return numerals.ONES[number]


@given(st.text(alphabet="0123456789.,/%-+$\\{}()[]frac ^_exEsqrt!|=<>π½²", max_size=60))
def test_no_text_breaks_the_comparison(text):
    assert status("7", text) in ("correct", "wrong", "undecided", None)
    status(text, "7")
    status(text, f"{text} ")
