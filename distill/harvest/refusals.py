"""Refusals: samples a server will not draw for what the problem says, however often it is asked.

A prompt beyond its context, or one its filter dislikes. They are kept beside the traces with the server's
reason, in a ledger of their own that is there once there is something to say, and are not asked
for again; without the folder they are.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from distill.ledger import Ledger, read_ledger
from distill.records import Record, SamplerId

REFUSALS = "refusals"
SHOWN = 3
"""Reasons told in a report; the ledger has all."""


class Refusal(Record):
    """One sample that will not come."""

    trace_id: str
    """It would have had."""
    problem_id: str
    sampler: SamplerId
    teacher: str | None = None
    """Its name among several."""
    round: int = 0
    sample_index: int
    why: str
    """In the server's words."""


class Refusals:
    """Those of one harvest. Written only inside a `with` block."""

    def __init__(self, out: Path) -> None:
        self._folder = out / REFUSALS
        self._ledger: Ledger | None = None
        self.rows: dict[str, Refusal] = {}
        """By the id the trace would have had."""
        if self._folder.is_dir():
            self.rows = {row.trace_id: row for row in read_ledger(self._folder, Refusal, torn=True)}

    def __enter__(self) -> "Refusals":
        if self._folder.is_dir():
            self._ledger = Ledger(self._folder)
        return self

    def __exit__(self, *error: object) -> None:
        if self._ledger is not None:
            self._ledger.close(complete=error[0] is None)
            self._ledger = None

    def add(self, rows: Iterable[Refusal]) -> None:
        """Keep them."""
        for row in rows:
            if self._ledger is None:
                self._ledger = Ledger(self._folder)
            self.rows[row.trace_id] = self._ledger.append(row)

    @property
    def opened(self) -> tuple[Ledger, ...]:
        """Their ledger, where there is one yet."""
        return () if self._ledger is None else (self._ledger,)


def told(rows: Iterable[Refusal]) -> Iterator[str]:
    """Lines of a report."""
    kept = list(rows)
    if not kept:
        return
    reasons = Counter(row.why for row in kept)
    problems = len({row.problem_id for row in kept})
    yield f"{len(kept):,} samples of {problems:,} problems refused by their servers ({REFUSALS}/):"
    for why, count in reasons.most_common(SHOWN):
        yield f"  {count:,} x {why}"
    if len(reasons) > SHOWN:
        yield f"  and {len(reasons) - SHOWN:,} other reasons"
