"""The plan of a run: budgets kept, curriculum followed, every row dealt before any again."""

from collections import Counter

import pytest

from distill.train.batches import Curriculum, Plan, plan_batches

LENGTHS = [4 + row // 10 for row in range(300)]
WHOLE = Curriculum()


def plan(lengths: list[int] = LENGTHS, curriculum: Curriculum = WHOLE, **changes: object) -> Plan:
    asked: dict[str, object] = {"batch_tokens": 100, "batches": 200, "tokens": None, "padded": True, "seed": 0}
    return plan_batches(lengths, curriculum, **{**asked, **changes})  # type: ignore[arg-type]


def padded(rows: list[int]) -> int:
    return max(LENGTHS[row] for row in rows) * len(rows)


def test_padded_batches_keep_the_budget_and_fill_most_of_it() -> None:
    sizes = [padded(batch) for batch in plan().batches]
    assert max(sizes) <= 100
    assert sum(sizes) / len(sizes) > 75


def test_packed_batches_count_no_padding() -> None:
    sizes = [sum(LENGTHS[row] for row in batch) for batch in plan(padded=False).batches]
    assert max(sizes) <= 100
    assert sum(sizes) / len(sizes) > 80


def test_rows_of_a_batch_are_alike_in_length() -> None:
    batches = plan().batches
    waste = sum(padded(batch) - sum(LENGTHS[row] for row in batch) for batch in batches)
    assert waste < 0.15 * sum(padded(batch) for batch in batches)


def test_every_row_is_dealt_before_any_again() -> None:
    seen = Counter(row for batch in plan(batches=400).batches for row in batch)
    assert set(seen) == set(range(len(LENGTHS)))
    assert max(seen.values()) - min(seen.values()) <= 2  # rows held back for the next group are at most one behind


def test_a_row_longer_than_the_budget_gets_a_batch_of_its_own() -> None:
    batches = plan([500, 501, 3], batches=6).batches
    assert [0] in batches
    assert [1] in batches


def test_one_row_is_enough() -> None:
    assert all(set(batch) == {0} for batch in plan([7], batches=3).batches)


def test_a_token_budget_is_reached_and_not_passed_by_more_than_a_batch() -> None:
    drawn = plan(batches=None, tokens=5000)
    assert drawn.tokens[-2] < 5000 <= drawn.tokens[-1] < 5100
    assert drawn.tokens[-1] == sum(LENGTHS[row] for batch in drawn.batches for row in batch)


def test_a_token_budget_ends_on_a_whole_step() -> None:
    assert len(plan(batches=None, tokens=5000, multiple=4).batches) % 4 == 0


def test_the_curriculum_opens_the_data_from_its_easy_end() -> None:
    batches = plan(curriculum=Curriculum(start=0.2, full_at=0.5), batches=400).batches
    hardest = [max(batch) for batch in batches]
    assert max(hardest[:4]) < 0.22 * len(LENGTHS)
    for step in range(0, 200, 10):
        assert max(hardest[: step + 1]) <= (0.2 + 0.8 * step / 200 + 0.02) * len(LENGTHS)
    assert max(hardest[205:]) >= 0.98 * len(LENGTHS)


def test_easy_rows_stay_in_the_mix_at_the_end() -> None:
    late = [row for batch in plan(curriculum=Curriculum(start=0.2), batches=400).batches[300:] for row in batch]
    assert sum(row < 60 for row in late) / len(late) == pytest.approx(0.2, abs=0.05)


def test_a_plan_depends_on_its_seed_alone() -> None:
    assert plan(seed=3) == plan(seed=3)
    assert plan(seed=3) != plan(seed=4)
