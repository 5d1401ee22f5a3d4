"""Selection: which problems take part, and how one is put to a sampler.

Does not make problems (distill.problems) and does not render chat (distill.prompts).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from distill.errors import UserError
from distill.jsonl import iter_placed
from distill.prompts import STEP_BY_STEP
from distill.records import Message, Problem, Record

Instruction = Literal["none", "step-by-step"]
"""What the user turn says after the problem; step-by-step asks for a boxed answer."""

Ask = Callable[[Problem], tuple[Message, ...]]
"""How a problem is put to a sampler."""


class Selection(Record):
    """Which problems of a file take part."""

    split: Literal["train", "test"] | None = "train"
    families: tuple[str, ...] = ()
    """Sources taken; empty takes all."""
    levels: tuple[int, ...] = ()
    """Levels taken; empty takes all."""
    limit: int | None = Field(default=None, gt=0)
    """Problems taken, evenly over families and levels; None takes all."""


class HeldOut(Selection):
    """Which problems of a file are asked; the test split unless told otherwise."""

    split: Literal["train", "test"] | None = "test"


def select(problems: Sequence[Problem], selection: Selection, path: Path) -> list[Problem]:
    """The problems a selection takes, in file order. Raises UserError when it takes none."""
    kept = [
        problem
        for problem in problems
        if selection.split in (None, problem.split)
        and (not selection.families or problem.source in selection.families)
        and (not selection.levels or problem.level in selection.levels)
    ]
    if not kept:
        splits, families = _names(row.split for row in problems), _names(row.source for row in problems)
        levels = _names(row.level for row in problems)
        raise UserError(
            f"{path}: none of {len(problems)} problems is selected by {selection.to_json()}; "
            f"there are splits {splits}, families {families}, levels {levels}"
        )
    if selection.limit is None:
        return kept
    place: Counter[tuple[str, int | None]] = Counter()
    turns = []
    for index, problem in enumerate(kept):
        turns.append((place[problem.source, problem.level], index))
        place[problem.source, problem.level] += 1
    return [kept[index] for index in sorted(index for _, index in sorted(turns)[: selection.limit])]


def read_problems(path: Path) -> list[Problem]:
    """Problems of a run folder or of a file. Raises UserError when two share an id."""
    return list(iter_problems(path))


def iter_problems(path: Path) -> Iterator[Problem]:
    """The same one by one, for more than memory holds; an id named twice is reported at the end."""
    return (problem for _, problem in iter_placed_problems(path))


def iter_placed_problems(path: Path) -> Iterator[tuple[int, Problem]]:
    """The same, each with the byte its line begins at."""
    file = problems_file(path)
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for offset, problem in iter_placed(file, Problem):
        if problem.id in seen:
            twice[problem.id] = None
        seen.add(problem.id)
        yield offset, problem
    if twice:
        first = next(iter(twice))
        raise UserError(f"{file}: id {first!r} names two problems ({len(twice)} ids do); ids must be unique")


def problems_file(path: Path) -> Path:
    """Where the problems of a run folder, or of a file, stand."""
    return path / "problems.jsonl" if path.is_dir() else path


def asking(instruction: str) -> Ask:
    """The user turn of a problem, with or without the step-by-step instruction."""
    tail = f"\n\n{STEP_BY_STEP}" if instruction == "step-by-step" else ""
    return lambda problem: (Message(role="user", content=problem.prompt + tail),)


def _names(values: Iterable[object]) -> str:
    return ", ".join(sorted({str(value) for value in values if value is not None})) or "none"
