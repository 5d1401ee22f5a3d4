"""Style: form and nothing but form."""

import pytest

from distill.judge.style import style

GOOD = "<think> 7 + 5 = 12 ; </think> 12"


def test_a_well_formed_completion_scores_one():
    assert style(GOOD, "stop").score == 1.0
    assert style(GOOD, "stop").reason == ""
    assert style("7 + 5 = 12 ; </think> 12", "stop", think_open=True).score == 1.0


@pytest.mark.parametrize(
    ("text", "finish", "think_open"),
    [
        pytest.param(GOOD, "length", False, id="cut"),
        pytest.param("12", "stop", False, id="no thought"),
        pytest.param("<think> 7 + 5 = 12", "stop", False, id="never closed"),
        pytest.param("<think> </think> 12", "stop", False, id="empty thought"),
        pytest.param("<think> a </think>", "stop", False, id="no answer"),
        pytest.param("<think> a </think> <think> b </think> 12", "stop", False, id="two thoughts"),
        pytest.param("<think> a </think> b </think> 12", "stop", False, id="closed twice"),
        pytest.param("<think> a <think> b </think> 12", "stop", False, id="opened twice"),
        pytest.param("<think> a </think> 12 <think>", "stop", False, id="opened again behind the answer"),
        pytest.param("12 <think> a </think> 12", "stop", False, id="answer before the thought"),
        pytest.param(GOOD, "stop", True, id="opened again although the prompt had"),
        pytest.param(r"<think> a </think> \boxed{1} \boxed{2}", "stop", False, id="two boxes"),
        pytest.param("", "stop", False, id="nothing"),
    ],
)
def test_every_flaw_costs_something_and_is_named(text, finish, think_open):
    found = style(text, finish, think_open=think_open)
    assert 0.0 <= found.score < 1.0
    assert found.reason


def test_a_wrong_answer_has_full_style():
    assert style("<think> 7 + 5 = 3 ; </think> 3", "stop").score == 1.0


def test_more_flaws_score_less():
    scores = [style(text, "stop").score for text in (GOOD, "<think> a </think>", "<think> a", "")]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4
