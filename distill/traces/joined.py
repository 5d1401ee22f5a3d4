"""Joined: every trace of a run folder with its newest verdict and its problem, one at a time.

Traces come in the order of the ledger, which is nearly that of verdicts and problems, so reading
those by their places is reading forward. Nothing is held but one row and the index on disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from distill.harvest import TRACES, VERDICTS
from distill.jsonl import PlacedLines
from distill.ledger import Places, read_placed
from distill.records import Problem, Trace, Verdict
from distill.selection import iter_placed_problems
from distill.traces.index import LINES, Index

ROW = """
SELECT place, verdicts.offset, asked_at.offset FROM (SELECT ? AS id, ? AS problem) AS trace
LEFT JOIN verdicts ON verdicts.id = trace.id LEFT JOIN asked_at ON asked_at.id = trace.problem
ORDER BY place DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Joined:
    """One trace and what belongs to it."""

    trace: Trace
    verdict: Verdict | None
    problem: Problem | None


def joined(index: Index, problems: Path | None, first: int = 0) -> Iterator[Joined]:
    """Every trace from number `first` on. Raises UserError, at the end, naming every bad line of the traces."""
    index.connection.execute("CREATE TEMP TABLE asked_at (id TEXT PRIMARY KEY, offset INTEGER) WITHOUT ROWID")
    if problems is not None:
        placed = ((problem.id, offset) for offset, problem in iter_placed_problems(problems))
        index.connection.executemany("INSERT INTO asked_at VALUES (?, ?)", placed)
    verdicts = Places(index.folder / VERDICTS, Verdict)
    asked = None if problems is None else PlacedLines(problems, Problem)
    problem: Problem | None = None
    try:
        for _, _, trace in islice(read_placed(index.folder / TRACES, Trace), first, None):
            place, offset, where = next(index.ask(ROW, (trace.id, trace.problem_id)))
            if asked is None or where is None:
                problem = None
            elif problem is None or problem.id != trace.problem_id:
                problem = asked.read(where)
            yield Joined(trace, None if place is None else verdicts.read(place // LINES, offset), problem)
    finally:
        verdicts.close()
        if asked is not None:
            asked.close()
