"""One notation for each text: what is a word, what is a figure, and what is only looks."""

import time

import pytest

from distill.curate.normalize import capitals, is_figure, tokens


def said(text: str) -> str:
    return " ".join(tokens(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(r"\frac{1}{2}", r"\dfrac12", id="fractions without braces"),
        pytest.param(r"\frac{x^{2}+1}{\sqrt{y}}", "(x²+1)/√y", id="fraction, power and root"),
        pytest.param(r"\frac{\frac{1}{2}}{3}", "(1/2)/3", id="fraction in a fraction"),
        pytest.param(r"x \leq 3, y \neq 4", "x <= 3, y != 4", id="relations"),
        pytest.param(r"3 \cdot 4 \times 5 \div 6", "3*4 × 5 ÷ 6", id="products"),
        pytest.param(r"\left( x + 1 \right)", "(x+1)", id="stretched brackets"),
        pytest.param(r"1{,}000 and \$5", "1,000 and $5", id="thousands and money"),
        pytest.param(r"90^\circ", "90°", id="degrees"),
        pytest.param(r"\text{Find } \mathrm{d}x", "Find d x", id="roman type"),
        pytest.param(r"\begin{align*} x &= 3 \\ y &= 4 \end{align*}", "x = 3 y = 4", id="aligned"),
        pytest.param("3.50 and .5 and 007", "3.5 and 0.5 and 7", id="zeros of numbers"),
        pytest.param("three percent of twenty", "3% of 20", id="number words"),
        pytest.param("It's **bold**, isn’t it", "Its bold isnt it", id="markdown and apostrophes"),
        pytest.param("* Add two\n* Drop one", "Add 2 Drop one", id="bullets"),
        pytest.param("x − 3 – 4", "x-3-4", id="dashes as minus"),
        pytest.param("```python\nx = 1  # set\n```", "```\nx = 1\n```", id="comments of code"),
        pytest.param("ＡＢ１２", "ab12", id="full-width characters"),
    ],
)
def test_notations_of_one_text_are_one(one: str, other: str) -> None:
    assert said(one) == said(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("3 + 4", "3 - 4", id="sign"),
        pytest.param("(3 + 4) * 5", "3 + 4 * 5", id="brackets around a formula"),
        pytest.param("Compute $5! + 1$", "Compute $5 + 1$", id="factorial"),
        pytest.param("f'(x) = 3", "f(x) = 3", id="derivative"),
        pytest.param(r"\sin(-60^\circ)", r"\sin 60^\circ", id="minus in a bracket"),
        pytest.param("2^{10}", "210", id="exponent"),
        pytest.param("x²", "x2", id="exponent in one character"),
        pytest.param("```\na-b\n```", "```\na b\n```", id="minus between names in code"),
        pytest.param("(x - a)^2", "(x a)^2", id="minus before a letter that is also a word"),
    ],
)
def test_what_changes_a_formula_is_kept(one: str, other: str) -> None:
    assert said(one) != said(other)


def test_marks_of_prose_are_not_mathematics() -> None:
    assert said("A well-known 5-year-old - a boy (in town) won 5!") == "a well known 5 year old a boy in town won 5 ."


def test_figures_are_numbers_signs_symbols_and_words_that_turn_a_question() -> None:
    text = "Find fewer apples than 3x + y, i.e. the area of a θ"
    assert [token for token in tokens(text) if is_figure(token)] == ["fewer", "3", "x", "+", "y", "e", "area", "theta"]


def test_scripts_without_spaces_are_read_by_character() -> None:
    assert tokens("小明有5个苹果") == ["小", "明", "有", "5", "个", "苹", "果"]


def test_names_in_capitals_count_only_where_case_tells_them() -> None:
    assert capitals(r"In triangle $ABC$ the word is RADII and \ANGLE") == ["", "ABC", "RADII"]
    assert capitals("FIND THE AREA") == capitals("find abc") == []
    assert capitals("Find it") == [""]


@pytest.mark.parametrize(
    "unit",
    ["(", "()", "\n", "**a", "-", "- ", "\\frac{", "^{", "!", " ", "1,111", "'", "a.", "((a))", "\\", "```", "{", "*a ",
     "\\begin{", "\\sqrt ", "⟦", "\ud800"],
)  # fmt: skip
def test_hostile_text_is_read_in_linear_time(unit: str) -> None:
    begun = time.process_time()
    tokens(unit * (400_000 // len(unit)))
    assert time.process_time() - begun < 5
