"""Equivalence: exact on numbers, silent where algebra is needed, never fooled by rounding."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.judge.equivalence import compare, explosive, normalize, quantity


def status(gold, said):
    ruling = compare(normalize(gold), normalize(said))
    return ruling.status if ruling else None


@pytest.mark.parametrize(
    ("gold", "said", "expected"),
    [
        ("18", "18", "correct"),
        ("18", "19", "wrong"),
        ("18", "$18", "correct"),
        ("18", r"\$18.00", "correct"),
        ("1000", "1,000", "correct"),
        ("10000", r"10{,}000", "correct"),
        ("70000", r"70\,000", "correct"),
        ("1/2", r"\frac{1}{2}", "correct"),
        ("1/2", r"\dfrac12", "correct"),
        ("1/2", "0.5", "correct"),
        ("3/2", r"1\frac{1}{2}", "correct"),
        ("3/2", "1 1/2", "correct"),
        ("-3/2", r"-1\frac{1}{2}", "correct"),
        ("-1/2", r"\frac{-1}{2}", "correct"),
        ("-3", "−3", "correct"),
        ("3", "+3", "correct"),
        ("3", "-3", "wrong"),
        ("3", r"\frac{6}{2}", "correct"),
        ("15", r"1.5 \times 10^1", "correct"),
        ("0.0015", "1.5e-3", "correct"),
        ("5", "x = 5", "correct"),
        ("10", "10.", "correct"),
        ("90", r"90^\circ", "correct"),
        ("90", "90°", "correct"),
        pytest.param("1/3", "0.333", "wrong", id="rounded is not equal"),
        pytest.param("0.0000001", "0.0000002", "wrong", id="tiny numbers differ"),
        pytest.param("1" * 300, "1" * 299 + "2", "wrong", id="long integers differ in the last digit"),
        pytest.param("25", r"25\%", "correct", id="percent sign forgiven"),
        pytest.param(r"25\%", "0.25", "correct", id="percent as a fraction"),
        pytest.param("25", r"2500\%", "wrong", id="2500% is no 25"),
        pytest.param("18", r"18 \text{ eggs}", "correct", id="a unit is forgiven"),
        pytest.param("5 cm", "5 mm", "undecided", id="two different units"),
        pytest.param("5 dollar", "5 dollars", "correct", id="plural of a unit"),
        pytest.param("5", "5 million", None, id="a scale is no unit"),
        pytest.param("5", "5x", None, id="a variable is no unit"),
        pytest.param("4", "4 hours 30 minutes", None, id="two quantities are not the first"),
        pytest.param("10101_2", "10101_3", "wrong", id="another base"),
        pytest.param("10101_2", "10101_{2}", "correct", id="same base"),
        pytest.param("10101_2", "10101", "correct", id="base left out"),
        pytest.param("10101_2", "21", "wrong", id="value in another base"),
        pytest.param("5", r"\frac{5}{0}", None, id="division by zero is no number"),
        pytest.param("(1,2)", "[1,2]", None, id="brackets are left to algebra"),
        pytest.param("2,3", "23", None, id="a list is no number"),
        pytest.param("1000", "1,00,0", None, id="misplaced commas"),
        pytest.param("", "5", "gold_bad", id="no gold"),
        pytest.param("5", "", None, id="nothing said"),
        pytest.param(r"\text{Evelyn}", "Evelyn", "correct", id="words"),
        pytest.param(r"x+1", "x + 1", "correct", id="spacing"),
    ],
)
def test_two_answers_are(gold, said, expected):
    assert status(gold, said) == expected


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**9))
def test_every_way_to_write_a_fraction_is_read_as_its_value(top, bottom):
    sign = "-" if top < 0 else ""
    for text in (f"{top}/{bottom}", f"{sign}\\frac{{{abs(top)}}}{{{bottom}}}", f"\\dfrac{{{top}}}{{{bottom}}}"):
        read = quantity(normalize(text))
        assert read is not None
        assert read.value == Fraction(top, bottom)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_decimals_and_thousands_separators_are_exact(number):
    read = quantity(normalize(f"{number:,f}"))
    assert read is not None
    assert read.value == Fraction(number)


@given(st.text(alphabet="0123456789.,/%-+$\\{}frac ^_exE!", max_size=40))
def test_no_text_breaks_the_comparison(text):
    compare("5", normalize(text))
    assert status("7", text) in ("correct", "wrong", "undecided", None)


@pytest.mark.parametrize(
    "text",
    ["10^{10^{10}}", "(10^8)!", "2^{1000000007}-1", "9^9^9^9", "100000!", r"\sum_{k=1}^{n} k", "3!!", "x" * 1000],
)
def test_what_could_explode_is_kept_from_algebra(text):
    assert explosive(normalize(text))


@pytest.mark.parametrize(
    "text",
    ["2x^9 - 8x^7 + 9x^6 - 16x^5", r"\frac{\sqrt{3}}{2}", "x^2y^3z^4", "10^{2020}", "5!", r"e^{x^2}", "(-\\infty, 3]"],
)
def test_ordinary_mathematics_is_let_through(text):
    assert explosive(normalize(text)) is None
