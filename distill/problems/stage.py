"""Problems: write the questions everything else is about.

Either procedural families (new training problems for every run seed, one exam for all
seeds) or one split of a real benchmark. Prompts are unique. Whether a procedural problem
may be trained on is decided by the hash of its prompt alone (`distill.problems.family`).
"""

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.problems.families import FAMILIES, family
from distill.problems.family import Family, split_of
from distill.progress import Progress, Task
from distill.recipe import StageConfig
from distill.records import Problem
from distill.runs import Report

EXAM_SEED = 20_250_120
"""Test problems are drawn from this seed whatever the run's, so that two seeds sit one exam."""
PATIENCE = 2_000
PATIENCE_PER_PROBLEM = 100
"""Draws without a new problem before a space counts as exhausted. Nine draws of ten miss the test
split, so a space of n equally likely test problems yields its last one with probability above 0.9999."""

DEEPEST = 64
"""Steps of the longest problem that can be asked for."""

Count = Annotated[int, Field(ge=0)]


class FamilyTable(StageConfig):
    """One family's share of a run."""

    levels: tuple[Annotated[int, Field(ge=1, le=DEEPEST)], ...] = Field(min_length=1)
    """Levels asked for, such as [1, 2, 3]."""
    train: Count | tuple[Count, ...]
    """Training problems a level: one number for all, or one for each of `levels`."""
    test: Count | tuple[Count, ...]
    """Test problems a level, likewise."""
    world: dict[str, Any] = Field(default_factory=dict)
    """Knobs of the family: names, phrasings, operations, ..."""

    @model_validator(mode="after")
    def _counts_fit_the_levels(self) -> "FamilyTable":
        if len(set(self.levels)) != len(self.levels):
            raise ValueError(f"levels: each level once, got {list(self.levels)}")
        for key in ("train", "test"):
            counts = getattr(self, key)
            if isinstance(counts, tuple) and len(counts) != len(self.levels):
                raise ValueError(f"{key}: {len(self.levels)} levels need as many counts, got {len(counts)}")
        return self

    def wanted(self) -> list[tuple[int, Literal["train", "test"], int]]:
        """(level, split, count) of everything asked for."""
        train, test = _each(self.train, self.levels), _each(self.test, self.levels)
        rows: list[tuple[int, Literal["train", "test"], int]] = []
        for level, for_train, for_test in zip(self.levels, train, test, strict=True):
            rows += [(level, "train", for_train), (level, "test", for_test)]
        return rows


class ProblemsConfig(StageConfig):
    """Either `families`, or a `benchmark` with its `split`."""

    families: dict[str, FamilyTable] = Field(default_factory=dict)
    """Per family, how many problems of which levels."""
    benchmark: str | None = None
    """Name of a benchmark read from the data directory."""
    split: Literal["train", "test"] = "test"
    """Split of the benchmark."""
    limit: int | None = Field(default=None, ge=1)
    """First rows of the benchmark taken; all when absent."""

    @model_validator(mode="after")
    def _one_source(self) -> "ProblemsConfig":
        if bool(self.families) == bool(self.benchmark):
            raise ValueError("needs either families or benchmark, and not both")
        if self.limit is not None and self.benchmark is None:
            raise ValueError("limit: counts rows of a benchmark; families have their own counts")
        for name, table in self.families.items():
            try:
                family(name, table.world)
            except UserError as error:
                raise ValueError(str(error)) from error
        return self


@dataclass(frozen=True, slots=True)
class Drawn:
    """Problems of one family, level and split; fewer than wanted when the space ran out."""

    problems: list[Problem]
    wanted: int


def problems(out: Path, config: ProblemsConfig, *, data: Path, seed: int, progress: Progress) -> Report:
    """Write `problems.jsonl`. The same seed gives the same bytes; the test rows are the same for every seed."""
    if config.benchmark is not None:
        from distill.problems.benchmarks import load_benchmark

        rows = load_benchmark(config.benchmark, config.split, data, config.limit)
        return _report(out, rows, [f"{config.benchmark} {config.split}: {len(rows):,} problems"])
    rows, lines = [], []
    with progress.task("problems", sum(count for _, _, count in _wanted(config)), unit="problems") as task:
        for name, table in config.families.items():
            kind = family(name, table.world)
            for level, split, count in table.wanted():
                drawn = draw(kind, level, split, count, seed=seed, task=task)
                rows += drawn.problems
                if len(drawn.problems) < count:
                    found = len(drawn.problems)
                    lines.append(f"{name} level {level} {split}: only {found:,} distinct problems, {count:,} wanted")
            lines.append(_line(name, rows))
    _assert_disjoint(rows)
    return _report(out, rows, lines)


def draw(
    kind: Family, level: int, split: Literal["train", "test"], count: int, *, seed: int, task: Task | None = None
) -> Drawn:
    """Up to `count` distinct problems; stops when many draws in a row bring nothing new."""
    rng = random.Random(f"{EXAM_SEED if split == 'test' else seed}/{kind.name}/{level}/{split}")
    found: dict[str, Problem] = {}
    misses = 0
    while len(found) < count and misses < PATIENCE + PATIENCE_PER_PROBLEM * len(found):
        problem = kind.generate(rng, level)
        if problem.split != split or problem.prompt in found:
            misses += 1
            continue
        found[problem.prompt] = problem
        misses = 0
        if task is not None:
            task.advance()
    return Drawn(list(found.values()), count)


def _wanted(config: ProblemsConfig) -> list[tuple[int, Literal["train", "test"], int]]:
    return [row for table in config.families.values() for row in table.wanted()]


def _each(count: int | tuple[int, ...], levels: tuple[int, ...]) -> tuple[int, ...]:
    return count if isinstance(count, tuple) else (count,) * len(levels)


def _assert_disjoint(rows: list[Problem]) -> None:
    prompts = {split: {row.prompt for row in rows if row.split == split} for split in ("train", "test")}
    assert not prompts["train"] & prompts["test"], "a prompt is in both splits"
    assert len(prompts["train"]) + len(prompts["test"]) == len(rows), "a prompt occurs twice"
    assert all(split_of(row.prompt) == row.split for row in rows), "a row is not where its hash puts it"


def _line(name: str, rows: list[Problem]) -> str:
    counts = Counter((row.level, row.split) for row in rows if row.source == name)
    levels = sorted({level for level, _ in counts if level is not None})
    each = "  ".join(f"{level}: {counts[level, 'train']:,}+{counts[level, 'test']:,}" for level in levels)
    return f"{name:<12} train+test by level  {each}"


def _report(out: Path, rows: list[Problem], lines: list[str]) -> Report:
    write_jsonl(out / "problems.jsonl", rows)
    counts = Counter(row.split for row in rows)
    sources = sorted({row.source for row in rows})
    marks: dict[str, Any] = {"sources": sources}
    if sources and all(source in FAMILIES for source in sources):
        marks["held_out"] = "by prompt hash"
    return Report(
        counts={"problems": len(rows), "train": counts["train"], "test": counts["test"]},
        lines=tuple(lines),
        marks=marks,
    )
