"""History: for every trace the steps it went through, and why it is in or out.

A drop is final: a trace meets no step behind the one that dropped it. Kept in memory for
dropped and flagged traces only; those that passed are told by the list of steps.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from distill.curate.content.finding import Finding
from distill.curate.row import Row
from distill.records import Record

HISTORY = "history.jsonl"
Outcome = Literal["passed", "dropped", "flagged"]


Value = int | float | str
Event = tuple[str, Outcome, str | None, Value | None, Value | None, str]
"""Step, outcome, reason, value, threshold, the same in words."""


class Fate(Record):
    """One line of the history: what every step said about one trace; the last one decides."""

    trace_id: str
    problem_id: str
    steps: tuple[Event, ...]
    kept: bool
    example_id: str | None = None


@dataclass(slots=True)
class Count:
    """What one step did."""

    name: str
    before: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    """Reasons it noted without dropping."""

    @property
    def after(self) -> int:
        """Traces that passed."""
        return self.before - self.reasons.total()


def by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    """Most first, equal ones by name."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


class History:
    """Which step dropped or flagged which trace."""

    def __init__(self, steps: Sequence[str]) -> None:
        self.steps = list(steps)
        self.drops: dict[str, tuple[str, Finding]] = {}
        self.flags: dict[str, list[tuple[str, Finding]]] = {}
        self.measured: dict[str, tuple[str, float]] = {}
        """Steps whose value is told of traces that passed: attribute of the row, and the threshold."""

    def drop(self, row: Row, step: str, finding: Finding) -> None:
        """The trace goes no further."""
        self.drops[row.trace_id] = step, finding

    def flag(self, row: Row, step: str, finding: Finding) -> None:
        """The trace goes on, with a note."""
        self.flags.setdefault(row.trace_id, []).append((step, finding))

    def alive(self, rows: Iterable[Row]) -> list[Row]:
        """Rows no step has dropped yet."""
        return [row for row in rows if row.trace_id not in self.drops]

    def counts(self, rows: int) -> list[Count]:
        """Before, after and reasons of every step, in order."""
        dropped: dict[str, Counter[str]] = {step: Counter() for step in self.steps}
        flagged: dict[str, Counter[str]] = {step: Counter() for step in self.steps}
        for step, finding in self.drops.values():
            dropped[step][finding.reason] += 1
        for flags in self.flags.values():
            for step, finding in flags:
                flagged[step][finding.reason] += 1
        counts, left = [], rows
        for step in self.steps:
            counts.append(Count(step, left, dropped[step], flagged[step]))
            left -= dropped[step].total()
        return counts

    def fates(self, rows: Iterable[Row], problem_ids: Sequence[str], examples: Sequence[int]) -> Iterator[Fate]:
        """One a trace, in the order of the rows; `examples` holds the id of each example as a number."""
        for row in rows:
            example = None if row.order is None else f"{examples[row.order]:016x}"
            yield Fate.model_construct(
                trace_id=row.trace_id,
                problem_id=problem_ids[row.problem],
                steps=tuple(self._events(row)),
                kept=example is not None,
                example_id=example,
            )

    def _events(self, row: Row) -> Iterator[Event]:
        last, finding = self.drops.get(row.trace_id, (None, None))
        flags = {step: _event(step, "flagged", flag) for step, flag in self.flags.get(row.trace_id, [])}
        for step in self.steps:
            if step == last and finding is not None:
                yield _event(step, "dropped", finding)
                return
            if step in flags:
                yield flags[step]
            elif step in self.measured:
                name, threshold = self.measured[step]
                yield (step, "passed", None, getattr(row, name), threshold, "")
            else:
                yield (step, "passed", None, None, None, "")


def _event(step: str, outcome: Outcome, finding: Finding) -> Event:
    return step, outcome, finding.reason, finding.value, finding.threshold, finding.detail
