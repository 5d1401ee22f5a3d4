"""The chat contract: thought and answer come apart and together the same way everywhere."""

import pytest

from distill.prompts import Parts, join_thought, split_thought, unfinished


@pytest.mark.parametrize(
    ("text", "think_open", "parts"),
    [
        pytest.param("<think> a </think> 7", False, Parts("a", "7"), id="complete"),
        pytest.param("a </think> 7", True, Parts("a", "7"), id="opened by the prompt"),
        pytest.param("a </think> 7", False, Parts("a", "7"), id="lone end tag"),
        pytest.param("7", False, Parts(None, "7"), id="no thought"),
        pytest.param("<think> a 7", False, Parts(None, None), id="never ended"),
        pytest.param("a 7", True, Parts(None, None), id="opened by the prompt, never ended"),
        pytest.param("<think></think>", False, Parts("", ""), id="empty both"),
        pytest.param(
            "<think> a </think> b </think> 7", False, Parts("a", "b </think> 7"), id="two ends: the first counts"
        ),
    ],
)
def test_split(text: str, think_open: bool, parts: Parts) -> None:
    assert split_thought(text, think_open=think_open) == parts


def test_join_is_the_inverse_of_split() -> None:
    assert split_thought(join_thought("1 + 1 = 2 ;", "2")) == Parts("1 + 1 = 2 ;", "2")
    assert split_thought(join_thought(None, "2")) == Parts(None, "2")


def test_a_thought_cut_by_the_limit_is_unfinished_and_a_cut_answer_is_not() -> None:
    assert unfinished("<think> a", "length")
    assert not unfinished("<think> a", "stop")
    assert not unfinished("<think> a </think> 1", "length")
