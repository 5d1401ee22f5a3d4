"""Which problems rl asks: every level, by weight, none for long without."""

from collections import Counter

import pytest

from distill.errors import UserError
from distill.records import Problem
from distill.train.mix import group_of, plan_prompts


def problem(source: str, level: int | None, number: int) -> Problem:
    name = f"{source}-{level}-{number}"
    return Problem(id=name, kind="answer", prompt=name, answer="1", source=source, split="train", level=level)


PROBLEMS = [problem("stories", level, number) for level in (1, 2, 3) for number in range(20)] + [
    problem("gsm8k", None, number) for number in range(5)
]


def shares(plan: list[list[int]]) -> dict[str, float]:
    asked = [group_of(PROBLEMS[index]) for step in plan for index in step]
    return {name: count / len(asked) for name, count in Counter(asked).items()}


def test_every_level_has_the_same_share_however_many_problems_it_has() -> None:
    assert set(shares(plan_prompts(PROBLEMS, 10, 8, {}, 0)).values()) == {0.25}


def test_every_level_is_in_every_step_that_has_room_for_it() -> None:
    for step in plan_prompts(PROBLEMS, 20, 4, {}, 0):
        assert len({group_of(PROBLEMS[index]) for index in step}) == 4


def test_a_step_too_small_for_all_levels_lets_them_take_turns() -> None:
    assert set(shares(plan_prompts(PROBLEMS, 4, 1, {}, 0)).values()) == {0.25}


def test_focus_on_a_level_and_on_its_family_multiply() -> None:
    found = shares(plan_prompts(PROBLEMS, 50, 8, {"stories": 2.0, "stories/level-3": 2.0}, 0))
    assert found["stories/level-3"] == pytest.approx(4 / 9, abs=0.01)
    assert found["gsm8k"] == pytest.approx(1 / 9, abs=0.01)


def test_problems_of_a_level_are_all_asked_before_any_again() -> None:
    plan = plan_prompts(PROBLEMS, 5, 16, {}, 0)
    asked = [index for step in plan for index in step if group_of(PROBLEMS[index]) == "stories/level-2"]
    assert len(asked) == len(set(asked)) == 20


@pytest.mark.parametrize(
    ("focus", "complaint"),
    [
        ({"storys": 2.0}, "focus.storys: no such family or level .did you mean stories"),
        ({"stories/level-9": 2.0}, "focus.stories/level-9: no such"),
        ({"stories/level-1": 0.0}, "a weight above 0, got 0.0"),
    ],
    ids=["misspelled family", "absent level", "level left out"],
)
def test_a_focus_that_cannot_be_meant_is_refused(focus: dict[str, float], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        plan_prompts(PROBLEMS, 1, 4, focus, 0)
