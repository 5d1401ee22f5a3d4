"""The plan of a run: budgets kept, curriculum followed, every row dealt before any again."""

from collections import Counter

import pytest

from distill.train.batches import Curriculum, Plan, cut, plan_steps

LENGTHS = [4 + row // 10 for row in range(300)]
WHOLE = Curriculum()


def plan(lengths: list[int] = LENGTHS, curriculum: Curriculum = WHOLE, **changes: object) -> Plan:
    asked: dict[str, object] = {"tokens_per_step": 100, "steps": 200, "tokens": None, "parts": 1, "seed": 0}
    return plan_steps(lengths, curriculum, **{**asked, **changes})  # type: ignore[arg-type]


def tokens(rows: list[int]) -> int:
    return sum(LENGTHS[row] for row in rows)


def test_steps_keep_the_budget_and_fill_most_of_it() -> None:
    sizes = [tokens(batch) for batch in plan().batches]
    assert max(sizes) <= 100
    assert sum(sizes) / len(sizes) > 85


def test_short_and_long_rows_share_steps() -> None:
    spans = [max(batch) - min(batch) for batch in plan().batches]
    assert sum(spans) / len(spans) > 100


def test_every_row_is_dealt_before_any_again() -> None:
    seen = Counter(row for batch in plan(steps=400).batches for row in batch)
    assert set(seen) == set(range(len(LENGTHS)))
    assert max(seen.values()) - min(seen.values()) <= 1


def test_a_row_longer_than_the_budget_gets_a_step_of_its_own() -> None:
    batches = plan([500, 501, 3], steps=6).batches
    assert [0] in batches
    assert [1] in batches


def test_one_row_is_enough() -> None:
    assert all(set(batch) == {0} for batch in plan([7], steps=3).batches)


def test_a_token_budget_is_reached_and_not_passed_by_more_than_a_step() -> None:
    drawn = plan(steps=None, tokens=5000)
    assert drawn.tokens[-2] < 5000 <= drawn.tokens[-1] < 5100
    assert drawn.tokens[-1] == sum(tokens(batch) for batch in drawn.batches)


def test_every_step_has_all_its_parts_even_when_rows_are_long() -> None:
    for drawn in (plan(parts=3), plan([500] * 9, parts=3, steps=5)):
        assert all(len(step) == 3 and all(step) for step in drawn.steps)


def test_parts_are_sorted_by_length_and_about_equal() -> None:
    rows = list(range(0, 300, 7))
    parts = cut(rows, LENGTHS, 4)
    assert [row for part in parts for row in part] == rows
    sizes = [tokens(part) for part in parts]
    assert max(sizes) - min(sizes) <= 2 * max(LENGTHS)


@pytest.mark.parametrize("lengths", [[9, 1, 1, 1], [1, 1, 1, 9], [5, 5, 5, 5]], ids=str)
def test_no_part_is_empty(lengths: list[int]) -> None:
    assert all(cut(range(4), lengths, 3))


def test_the_curriculum_opens_the_data_from_its_easy_end() -> None:
    batches = plan(curriculum=Curriculum(start=0.2, full_at=0.5), steps=400).batches
    hardest = [max(batch) for batch in batches]
    assert max(hardest[:4]) < 0.22 * len(LENGTHS)
    for step in range(0, 200, 10):
        assert max(hardest[: step + 1]) <= (0.2 + 0.8 * step / 200 + 0.02) * len(LENGTHS)
    assert max(hardest[205:]) >= 0.98 * len(LENGTHS)


def test_easy_rows_stay_in_the_mix_at_the_end() -> None:
    late = [row for batch in plan(curriculum=Curriculum(start=0.2), steps=400).batches[300:] for row in batch]
    assert sum(row < 60 for row in late) / len(late) == pytest.approx(0.2, abs=0.05)


def test_a_plan_depends_on_its_seed_alone() -> None:
    assert plan(seed=3) == plan(seed=3)
    assert plan(seed=3) != plan(seed=4)


def test_the_pool_stays_as_it_started_until_the_hold_ends() -> None:
    held = Curriculum(start=0.2, hold=0.25, full_at=0.6)
    shares = [held.share(progress) for progress in (0.0, 0.25, 0.425, 0.6, 1.0)]
    assert shares == pytest.approx([0.2, 0.2, 0.6, 1.0, 1.0])


def test_a_hold_that_never_ends_is_refused() -> None:
    with pytest.raises(ValueError, match="hold"):
        Curriculum(hold=0.5, full_at=0.5)
