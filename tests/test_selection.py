"""A selection takes what it names, evenly, and says what there was when it takes nothing."""

from collections import Counter
from pathlib import Path

import pytest

from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.records import Problem
from distill.selection import Selection, read_problems, select

HERE = Path("problems.jsonl")


def problem(number: int, source: str = "stories", level: int | None = 1, split: str = "train") -> Problem:
    fields = {
        "id": f"{source}-{number}",
        "kind": "open",
        "prompt": "?",
        "source": source,
        "split": split,
        "level": level,
    }
    return Problem.model_validate(fields)


ROWS = [
    *(problem(number, "stories", level) for level in (1, 2, 3) for number in range(10 * level, 10 * level + 10)),
    *(problem(number, "expressions", None) for number in range(5)),
    problem(99, "stories", 1, "test"),
]


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        pytest.param({}, 35, id="the training split by default"),
        pytest.param({"split": "test"}, 1, id="test"),
        pytest.param({"split": None}, 36, id="both"),
        pytest.param({"families": ["stories"], "levels": [1, 3]}, 20, id="family and levels"),
        pytest.param({"levels": [2]}, 10, id="a problem without a level is in none"),
        pytest.param({"limit": 1000}, 35, id="a limit beyond the end"),
    ],
)
def test_a_selection_takes_what_it_names(fields: dict[str, object], count: int) -> None:
    assert len(select(ROWS, Selection.model_validate(fields), HERE)) == count


def test_a_limit_is_spread_over_families_and_levels() -> None:
    taken = select(ROWS, Selection(limit=9), HERE)
    assert Counter((row.source, row.level) for row in taken) == {
        ("stories", 1): 3,
        ("stories", 2): 2,
        ("stories", 3): 2,
        ("expressions", None): 2,
    }
    assert taken == [row for row in ROWS if row in taken], "file order stays"


def test_a_selection_of_nothing_says_what_there_is() -> None:
    with pytest.raises(UserError, match=r"none of 36 problems .*families expressions, stories, levels 1, 2, 3"):
        select(ROWS, Selection(families=("story",)), HERE)


def test_two_problems_of_one_id_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "problems.jsonl", [problem(1), problem(2), problem(1)])
    with pytest.raises(UserError, match=r"problems\.jsonl: id 'stories-1' names two problems"):
        read_problems(tmp_path)


def test_problems_are_read_from_a_run_folder_or_a_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "problems.jsonl", [problem(1)])
    assert read_problems(tmp_path) == read_problems(tmp_path / "problems.jsonl")
