"""Compare: two checkpoints of one bench or of two, problem by problem.

Only what was asked in the same way can be compared: the protocol (its hash covers sampling, instruction and judge) and
the problems must be the same, or it is refused. Differences are in pass@1 with the interval of `distill.intervals`,
McNemar's exact test where each problem has one sample, and the smallest difference the exam could have shown.
Reads items only, so benches made before this was written compare too. Nothing corrects for many rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.errors import UserError, did_you_mean
from distill.intervals import spread
from distill.jsonl import read_jsonl
from distill.records import Item, Record, Score
from evals.bench import ITEMS, SCORES
from evals.intervals import needed
from evals.scoring import ALL, PAIRED_HEAD, PASS_1, Paired, aligned, bad_gold, group, pair, paired_cells, solved


@dataclass(frozen=True, slots=True)
class Side:
    """One checkpoint of one bench."""

    bench: Path
    checkpoint: str
    protocol: str
    contamination: str | None
    items: tuple[Item, ...]

    @property
    def label(self) -> str:
        """`runs/mini/bench: student`."""
        return f"{self.bench}: {self.checkpoint}"


class Flip(Record):
    """A problem on which two checkpoints differ."""

    problem_id: str
    task: str
    level: int | None = None
    a: float
    """Share of a's samples that are right."""
    b: float


class Comparison(Record):
    """All that is told about a pair."""

    a: str
    b: str
    protocol: str
    contamination: tuple[str | None, str | None]
    rows: tuple[Paired, ...]
    """`all`, families, their levels, levels."""
    values: dict[str, tuple[float, float]]
    """By task: pass@1 of a and of b."""
    flips: tuple[Flip, ...]
    asked: float
    """A difference somebody wants to see."""
    needed: int
    """Problems after which it is seen four times of five, the two flipping as they do here."""


def sides(bench: Path) -> dict[str, Side]:
    """The checkpoints of a bench folder. Raises UserError when it is none."""
    for name in (ITEMS, SCORES):
        if not (bench / name).is_file():
            raise UserError(f"{bench}: not a bench folder ({name} is missing)")
    items: dict[str, list[Item]] = {}
    for item in read_jsonl(bench / ITEMS, Item):
        items.setdefault(item.checkpoint, []).append(item)
    heads = {row.checkpoint: row for row in read_jsonl(bench / SCORES, Score) if row.metric == PASS_1}
    return {
        name: Side(bench, name, heads[name].protocol, heads[name].contamination, tuple(rows))
        for name, rows in items.items()
        if name in heads
    }


def chosen(a: Path, b: Path, of_a: str | None, of_b: str | None) -> list[tuple[Side, Side]]:
    """Which checkpoints are compared: those named, else all of the same name, else the only ones there are."""
    left, right = sides(a), sides(b)
    if of_a is not None or of_b is not None:
        return [(_named(left, a, of_a or of_b), _named(right, b, of_b or of_a))]
    both = [name for name in left if name in right]
    if both and a != b:
        return [(left[name], right[name]) for name in both]
    if len(left) == len(right) == 1 and a != b:
        return [(next(iter(left.values())), next(iter(right.values())))]
    raise UserError(
        f"compare: which checkpoints? {a} has {', '.join(left)}; {b} has {', '.join(right)}; "
        "name one as FOLDER:CHECKPOINT"
    )


def compare(a: Side, b: Side, asked: float) -> Comparison:
    """`a` less `b`. Raises UserError when they were asked other problems, as often, or in another way."""
    if a.protocol != b.protocol:
        raise UserError(f"compare: {a.label} was asked by {a.protocol}, {b.label} by {b.protocol}: not the same exam")
    _refuse_others(a, b)
    bad = bad_gold([*a.items, *b.items])
    names = ("a", "b")
    groups = {
        name: group(item for item in side.items if item.problem_id not in bad)
        for name, side in zip(names, (a, b), strict=True)
    }
    if not groups["a"]:
        raise UserError(f"compare: none of the problems of {a.label} can be judged (gold_bad)")
    rows = tuple(row.model_copy(update={"a": a.label, "b": b.label}) for row in pair(*names, groups))
    shares = {name: {task: solved(problems) for task, problems in groups[name].items()} for name in names}
    values = {task: (_mean(shares["a"][task].values()), _mean(shares["b"][task].values())) for task in groups["a"]}
    flips = []
    for problem_id, share in shares["a"][ALL].items():
        other, first = shares["b"][ALL][problem_id], groups["a"][ALL][problem_id][0]
        if share != other:
            flips.append(Flip(problem_id=problem_id, task=first.task, level=first.level, a=share, b=other))
    return Comparison(
        a=a.label,
        b=b.label,
        protocol=a.protocol,
        contamination=(a.contamination, b.contamination),
        rows=rows,
        values=values,
        flips=tuple(flips),
        asked=asked,
        needed=needed(_square(flips, rows[0].n), asked),
    )


def told(found: Comparison, *, flips: bool = False) -> list[str]:
    """The comparison as plain aligned text."""
    head = ("task", "a", "b", *PAIRED_HEAD)
    rows: list[tuple[str, ...]] = [head]
    tasks = [row for row in found.rows if row.task != ALL]
    one_family = len({row.task for row in tasks if "level-" not in row.task}) == 1
    for row in found.rows:
        if one_family and (row.task == ALL or row.task.startswith("level-")):
            continue  # the family says the same
        a, b = found.values[row.task]
        rows.append((row.task, f"{a:.1%}", f"{b:.1%}", *paired_cells(row)))
    lines = [f"a  {found.a}", f"b  {found.b}", f"protocol  {found.protocol}"]
    lines += [
        f"training set and exam, {name}  {mark}" for name, mark in zip("ab", found.contamination, strict=True) if mark
    ]
    whole = found.rows[0]
    lines += ["", *aligned(rows), "", _power(found, whole)]
    if flips:
        lines += ["", *_listed(found.flips)]
    return lines


def _power(found: Comparison, whole: Paired) -> str:
    points = found.asked * 100
    enough = "enough" if found.needed <= whole.n else "not enough"
    return (
        f"power: {points:g} points take {found.needed:,} problems (80% power at 5%, these two flipping as they do); "
        f"{whole.n:,} were asked, {enough}: they show {(whole.detects or 0.0) * 100:.1f} points"
    )


def _listed(flips: Sequence[Flip]) -> list[str]:
    rows: list[tuple[str, ...]] = [("problem", "task", "a", "b")]
    for flip in sorted(flips, key=lambda flip: (flip.b - flip.a, flip.problem_id)):
        task = flip.task if flip.level is None else f"{flip.task}/level-{flip.level}"
        rows.append((flip.problem_id, task, f"{flip.a:.0%}", f"{flip.b:.0%}"))
    return aligned(rows) if flips else ["no problem flipped"]


def _refuse_others(a: Side, b: Side) -> None:
    ours, theirs = _asked(a), _asked(b)
    if ours == theirs:
        return
    only, others = sorted(ours - theirs), sorted(theirs - ours)
    first = (only or others)[0]
    raise UserError(
        f"compare: {a.label} and {b.label} were not asked the same: {len(only):,} answers only of the first, "
        f"{len(others):,} only of the second, such as {first[0]!r} sample {first[1]}"
    )


def _asked(side: Side) -> set[tuple[str, int]]:
    return {(item.problem_id, item.sample_index) for item in side.items}


def _square(flips: Sequence[Flip], n: int) -> float:
    difference = np.zeros(n)
    difference[: len(flips)] = [flip.a - flip.b for flip in flips]
    return spread(difference)


def _named(found: dict[str, Side], bench: Path, name: str | None) -> Side:
    assert name is not None, "one of the two was named"
    if name not in found:
        raise UserError(f"{bench}: no checkpoint {name!r}{did_you_mean(name, found)}; there are {', '.join(found)}")
    return found[name]


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every)
