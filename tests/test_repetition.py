"""Repetition: loops are found wherever they are cut, and ordinary text has none."""

import random
import time

import pytest

from distill.judge.style.repetition import repetition

ENGLISH = (
    "Okay, let me think about this. In April she sold 48 clips and in May half as many, so that is $48/2 = 24$ "
    "clips. Wait, let me check that again: half of 48 is 24. Altogether she sold 48 + 24 = 72 clips."
)
GERMAN = "Im April verkaufte sie 48 Spangen und im Mai halb so viele, also 24. Zusammen sind das 72 Spangen."
CHINESE = "四月份她卖了48个发夹，五月份卖了一半，也就是24个。所以她一共卖了72个发夹。"


@pytest.mark.parametrize(
    ("text", "highest", "reason"),
    [
        pytest.param(
            "So the answer is five. " * 40, 0.05, 'loop of 40 rounds: "so the answer is five."', id="a sentence"
        ),
        pytest.param(("So the answer is five. " * 40)[:-9], 0.06, "loop of 40 rounds", id="cut within a round"),
        pytest.param("I see. " + "a" * 900, 0.05, 'rounds: "a"', id="one letter"),
        pytest.param("Let us begin." + " Hm..." * 60, 0.05, "loop", id="rounds that end in a shorter period"),
        pytest.param("".join(f"Step {n}: go on with it.\n" for n in range(40)), 0.06, "loop", id="only numbers differ"),
        pytest.param(ENGLISH + "Wait, no. " * 40 + GERMAN, 0.06, 'loop of 40 rounds: "wait, no."', id="inside"),
        pytest.param("It is so now. " * 9 + " \n" * 20 + ENGLISH, 0.3, "loop of 9", id="inside, before blank lines"),
        pytest.param(CHINESE + "所以答案是五。" * 30, 0.07, "loop of 30 rounds", id="Chinese"),
        pytest.param("\n".join([ENGLISH, GERMAN] * 2), 0.8, "13-grams said before", id="twice, no loop yet"),
        pytest.param("\n".join([ENGLISH] * 3), 0.67, "loop of 3 rounds", id="a long period"),
    ],
)
def test_repetition_lowers_the_score_and_is_quoted(text, highest, reason):
    found = repetition(text, "5")
    assert found.score <= highest
    assert reason in found.reason


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ENGLISH, id="prose"),
        pytest.param("\\boxed{5}\n" * 3, id="a short answer three times"),
        pytest.param(", ".join(map(str, range(2, 90))), id="a list of numbers"),
        pytest.param("\n".join(f"- On day {n} he eats {n + 1} apples." for n in range(5)), id="a list of days"),
        pytest.param("", id="nothing"),
        pytest.param("a", id="one letter alone"),
    ],
)
def test_ordinary_text_repeats_nothing(text):
    assert (repetition("", text).score, repetition("", text).reason) == (1.0, "")


def test_an_answer_may_repeat_its_thought_but_neither_part_itself():
    assert repetition(ENGLISH, ENGLISH).score == 1.0
    assert repetition("So the answer is five. " * 40, ENGLISH).score < 0.1
    assert repetition(ENGLISH, "So the answer is five. " * 40).score < 0.1


def test_longer_loops_score_less():
    scores = [repetition("", ENGLISH + "So the answer is five. " * n).score for n in (1, 5, 20, 100)]
    assert scores[0] == 1.0
    assert scores == sorted(set(scores), reverse=True)


def test_rounds_are_counted_beyond_the_tail_in_which_the_period_is_found():
    assert repetition("", "So the answer is five. " * 10_000).counts["rounds"] == 10_000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a" * 10**6, id="one letter"),
        pytest.param("ab " * 300_000, id="one word"),
        pytest.param("ab" * 250_000 + "c" + "ab" * 250_000, id="a period that breaks in the middle"),
        pytest.param("".join(random.Random(0).choices("abcdefghij ", k=10**6)), id="random"),
    ],
)
def test_a_megabyte_takes_less_than_a_second(text):
    begun = time.process_time()
    repetition("", text)
    assert time.process_time() - begun < 1.0
