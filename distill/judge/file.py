"""Judge a file: any mix of answers and programs in, one verdict a row out, in input order."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from distill.errors import UserError
from distill.jsonl import read_jsonl, write_jsonl
from distill.judge.judge import Judge, Said
from distill.judge.style import LOOKS, Look, styles
from distill.progress import Progress
from distill.records import Exchange, Finish, Fraction, Problem, Record, Status, Tests
from distill.runs import Report
from distill.sandbox import WALLED, Sandbox

SLOWEST = 5
"""Rows named in the summary."""


class JudgeRow(Record):
    """An answer (`gold`, `prediction`) or a program (`program`, `tests`)."""

    id: str
    gold: str | None = None
    prediction: str | None = None
    program: str | None = None
    """The candidate's whole source."""
    entry_point: str = ""
    """Function that `def check(candidate)` is given; asserts name theirs themselves."""
    tests: str | tuple[str, ...] | tuple[Exchange, ...] | None = None
    """`def check(candidate)` source, or assert statements, or what is read and printed."""
    setup: str = ""
    """Source that runs before the program and before its tests."""
    finish: Finish = "stop"
    think_open: bool = False
    question: str | None = None
    """What was asked: the language a style is held to."""

    @field_validator("tests", mode="before")
    @classmethod
    def _are_of_one_kind(cls, tests: object) -> object:
        if tests is None or isinstance(tests, str):
            return tests
        if not isinstance(tests, list | tuple):
            raise ValueError("expected `def check(candidate)` source, a list of asserts or a list of {stdin, stdout}")
        for number, test in enumerate(tests):
            if type(test) is not type(tests[0]) or not isinstance(test, str | dict | Exchange):
                raise ValueError(f"test {number}: expected all asserts (texts) or all {{stdin, stdout}}")
            if isinstance(test, dict) and not (
                set(test) == {"stdin", "stdout"} and all(isinstance(text, str) for text in test.values())
            ):
                raise ValueError(f"test {number}: expected the keys stdin and stdout, both texts; got {sorted(test)}")
        return tests

    @model_validator(mode="after")
    def _is_one_of_two(self) -> "JudgeRow":
        answer = self.gold is not None and self.prediction is not None
        program = self.program is not None and self.tests is not None
        if answer == program:
            raise ValueError("expected either gold and prediction, or program and tests")
        if isinstance(self.tests, str) and not self.entry_point:
            raise ValueError("entry_point: missing; it names the function that check(candidate) is given")
        return self

    def case(self) -> tuple[Problem, Said]:
        """What the judge is asked."""
        if self.tests is None:
            problem = Problem(id=self.id, kind="answer", prompt="", answer=self.gold, source="file", split="test")
            return problem, Said(self.prediction or "", self.finish, self.think_open)
        tests = Tests(entry_point=self.entry_point, check=self.tests, setup=self.setup)
        problem = Problem(id=self.id, kind="code", prompt="", tests=tests, source="file", split="test")
        return problem, Said(self.program or "", self.finish, self.think_open)

    def style(self) -> "dict[Look, RowStyle]":
        """How it is said. A program is no prose and has no thought: of it, repetition alone."""
        text = self.prediction if self.program is None else self.program
        found = styles(text or "", self.finish, think_open=self.think_open, question=self.question)
        looks = LOOKS if self.program is None else ("repetition",)
        return {look: RowStyle(score=round(found[look].score, 4), reason=found[look].reason) for look in looks}


class RowStyle(Record):
    """One look at a row's style."""

    score: Fraction
    reason: str


class RowVerdict(Record):
    """One row of the output."""

    id: str
    status: Status
    extracted: str | None = None
    expected: str | None = None
    why: str = ""
    seconds: float = 0.0
    isolation: Literal["process", "proxy", "in-process", "none"] | None = None
    style: dict[Look, RowStyle] | None = None


def judge_file(
    path: Path,
    out: Path,
    *,
    workers: int,
    timeout: float,
    progress: Progress,
    sandbox: Sandbox = WALLED,
    style: bool = False,
) -> Report:
    """Judge every row of `path` into `out`. Raises UserError naming every malformed line, before judging any."""
    rows = read_jsonl(path, JudgeRow)
    if not rows:
        raise UserError(f"{path}: no rows")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder for --out")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; --out names the file to write")
    if out.is_symlink() or (out.exists() and not out.is_file()):
        raise UserError(f"{out}: is no regular file; --out names the file to write")
    if out.suffix == ".gz":
        raise UserError(f"{out}: verdicts are written as plain JSONL; leave .gz out")
    staged = out.with_name(out.name + ".tmp")
    if any(each.exists() and os.path.samefile(each, path) for each in (out, staged)):
        raise UserError(f"{out}: --out is the input itself")
    begun = time.monotonic()
    verdicts: list[RowVerdict] = []
    judge = Judge(workers=workers, timeout=timeout, sandbox=sandbox)

    def judged() -> Iterator[RowVerdict]:
        with judge, progress.task("judge", len(rows), "rows") as task:
            for row, verdict in zip(rows, judge.judge_many(row.case() for row in rows), strict=True):
                task.advance()
                said = verdict.model_dump(exclude={"trace_id", "judge_version"})
                verdicts.append(RowVerdict(id=row.id, **said, style=row.style() if style else None))
                yield verdicts[-1]

    write_jsonl(out, judged())
    return _report(verdicts, time.monotonic() - begun, judge.walls)


def _report(verdicts: list[RowVerdict], seconds: float, walls: str) -> Report:
    statuses: Counter[str] = Counter(verdict.status for verdict in verdicts)
    slowest = sorted(verdicts, key=lambda verdict: -verdict.seconds)[:SLOWEST]
    lines = [f"{len(verdicts):,} rows in {seconds:.2f} s, {len(verdicts) / max(seconds, 1e-9):,.0f}/s"]
    lines.append("  ".join(f"{status} {count:,}" for status, count in statuses.most_common()))
    lines += [f"walls: {walls}"] if walls else []
    unwalled = sum(verdict.isolation == "none" for verdict in verdicts)
    lines += [f"UNSANDBOXED: {unwalled:,} programs ran without walls"] if unwalled else []
    lines += [f"slow: {row.id}  {row.seconds:.3f} s  {row.status}" for row in slowest if row.seconds > 0.1]
    means = _mean_scores(verdicts)
    lines += ["style: " + "  ".join(f"{look} {mean:.3f}" for look, mean in means.items())] if means else []
    counts: dict[str, int | float] = {
        "rows": len(verdicts),
        "seconds": round(seconds, 3),
        **statuses,
        "unsandboxed": unwalled,
    }
    counts |= {f"style_{look}": round(mean, 4) for look, mean in means.items()}
    return Report(counts=counts, lines=tuple(lines))


def _mean_scores(verdicts: Sequence[RowVerdict]) -> dict[Look, float]:
    styled = [verdict.style for verdict in verdicts if verdict.style]
    scores = {look: [style[look].score for style in styled if look in style] for look in LOOKS}
    return {look: sum(found) / len(found) for look, found in scores.items() if found}
