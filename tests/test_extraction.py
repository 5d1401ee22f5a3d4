"""Extraction: the marked answer wins, the last of several counts, a thought is no answer."""

import pytest

from distill.judge.equivalence import gold_answer
from distill.judge.extraction import extract, final_part

NUMBER, EXPRESSION, OPTION, SEVERAL = map(gold_answer, ("12", "x+3", "(C)", "1,2"))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param(r"so \boxed{9}", "9", id="boxed"),
        pytest.param(r"\boxed{ 9 }", "9", id="boxed in words"),
        pytest.param(r"\boxed{3} no, \boxed{5}", "5", id="last box"),
        pytest.param(r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", id="nested braces"),
        pytest.param(r"\boxed{\left\{1\right.}", r"\left\{1\right.", id="escaped brace is not a brace"),
        pytest.param(r"\boxed{4} \fbox{8}", "8", id="fbox is a box"),
        pytest.param(r"\boxed 7", "7", id="box without braces"),
        pytest.param("#### 1,234\n", "1,234", id="hashes"),
        pytest.param("#### 3\nWait.\n#### 4", "4", id="last hashes"),
        pytest.param("#### 3 and 5, answer is 8", "8", id="hashes before a line of words are a heading"),
        pytest.param("The answer is 18 dollars. It took 3 steps.", "18 dollars", id="phrase ends with its sentence"),
        pytest.param("The answer is 3.5.", "3.5", id="a decimal point ends no sentence"),
        pytest.param("Answer: **12**", "12", id="answer colon, bold"),
        pytest.param("the answer is that Tom has 18 eggs", "18", id="wordy phrase"),
        pytest.param("answer is 3. No: the answer is 4.", "4", id="last phrase"),
        pytest.param("9", "9", id="bare number"),
        pytest.param(r"$\frac{3}{4}$", r"$\frac{3}{4}$", id="bare fraction is not its denominator"),
        pytest.param("10-3 = 7", "7", id="last number"),
        pytest.param("it fell by 10-3", "3", id="a minus between numbers is no sign"),
        pytest.param("it is -3 now", "-3", id="a sign"),
        pytest.param("it costs $1,234.50.", "$1,234.50", id="full stop is not the number's"),
        pytest.param("最终答案是 12。所以", "12", id="Chinese phrase"),
        pytest.param("答案为：12", "12", id="Chinese phrase with a colon"),
        pytest.param(r"\boxed{5}. Wait, the answer is 6.", "5", id="a correction that is not boxed"),
        pytest.param(r"\boxed{5}. Wait: \boxed{6}", "6", id="a correction that is boxed"),
        pytest.param(r"\boxed{1}, \boxed{2}", "2", id="several boxes for one number"),
        pytest.param("**Answer:** 12", "12", id="bold answer"),
        pytest.param("The answers are 12 and", "12", id="plural"),
        pytest.param("#### Step 1: add\nThe answer is 5.", "5", id="a heading is no answer"),
        pytest.param("#### Answer: 5", "5", id="a label behind hashes"),
        pytest.param("#### Conclusion\n5", "5", id="a heading before the answer"),
        pytest.param("The answer is 5. This answer is correct.", "5", id="the last phrase says nothing"),
        pytest.param("The answer is therefore 5.", "5", id="a word between"),
        pytest.param("The answer is 5, not 6.", "5", id="not another"),
        pytest.param("The answer is 4 hours 30 minutes", "4 hours 30 minutes", id="two quantities stay two"),
        pytest.param("The answer is 2 + 3 = 5 apples", "5", id="behind the equals sign"),
        pytest.param(r"Thus the probability is $\frac{1}{2}$.", r"\frac{1}{2}", id="a formula, not its denominator"),
        pytest.param(r"so it is $x = \sqrt{3}$", r"\sqrt{3}", id="a formula, not a number in it"),
        pytest.param("thus 2^3", "2", id="an exponent is no number"),
        pytest.param("It is −5", "-5", id="unicode minus"),
        pytest.param("no number at all", None, id="nothing"),
        pytest.param(r"\boxed{9", None, id="a box that never closes"),
        pytest.param(r"7 \boxed{}", None, id="an empty box hides the number before it"),
    ],
)
def test_of_a_numeric_problem_the_answer_is(text, answer):
    found = extract(text, NUMBER)
    assert (found and found.text) == answer


def test_without_a_mark_a_symbolic_answer_is_the_whole_short_text():
    assert extract("x + 3", EXPRESSION).text == "x + 3"
    assert extract("prose " * 60, EXPRESSION) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param(r"\boxed{1} and \boxed{2}", "1, 2", id="and"),
        pytest.param(r"$x=\boxed{1}$ or $x=\boxed{2}$.", "1, 2", id="with their names"),
        pytest.param(r"\boxed{1}, \boxed{2}, \boxed{3}", "1, 2, 3", id="three"),
        pytest.param(r"First \boxed{7}. But no: \boxed{1}, \boxed{2}", "1, 2", id="only those joined to the last"),
        pytest.param(r"\boxed{1,2}", "1,2", id="one box with both"),
        pytest.param(r"\boxed{\boxed{1}, 2}", r"\boxed{1}, 2", id="a box within a box"),
        pytest.param(r"\boxed{1} and \boxed{2", None, id="the last never closes"),
        pytest.param(r"\boxed{1,2}, \boxed{1,2}", "1,2", id="said twice"),
        pytest.param(r"\boxed{1} so \boxed{2}", "2", id="not joined"),
    ],
)
def test_of_a_list_the_boxes_that_are_joined_are_the_answer(text, answer):
    found = extract(text, SEVERAL)
    assert (found and found.text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is (B).", "(B)"),
        ("so it must be (A) or rather (C)", "C"),
        ("we choose option D here", "D"),
        ("thinking\nB", "B"),
        ("I choose A.", "A"),
        ("Since (B) fails, C is correct", "C"),
        ("所以故选C", "C"),
        ("A good question. I do not know", None),
    ],
)
def test_of_an_option_the_last_letter_named_as_one_is_the_answer(text, answer):
    found = extract(text, OPTION)
    assert (found and found.text) == answer


def test_whether_a_cut_could_have_taken_a_part_of_it_is_known():
    whole = ("\\boxed{3}", "#### 3\n", "the answer is 3. So", "#### 3", "the answer is 3", "so 3", "3")
    assert [extract(text, NUMBER).whole for text in whole] == [True, True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("9", "9"),
        ("9 <think> or 10", None),
        ("9 <think> or 10 </think> 11", "11"),
        ("9 </think> 11", "11"),
        ("\\boxed{9} <think>", None),
    ],
)
def test_a_thought_behind_the_answer_is_cut_off_too(text, rest):
    assert final_part(text) == rest


HOSTILE = (
    "\\boxed{1}" + " " * 200 + "x",
    "</think>",
    "1,",
    "\\boxed{1},",
    "答案",
    "(A",
    "the answer is the ",
    "$",
    "\\boxed{",
    "answer is ",
    "1/",
    "9",
    "1.",
    "-",
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_extraction_takes_linear_time_on_hostile_text(piece):
    final_part(piece * 50_000)
    for gold in (NUMBER, EXPRESSION, OPTION, SEVERAL):
        extract(piece * 50_000, gold)  # a quadratic pattern would take minutes
