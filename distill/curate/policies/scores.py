"""Scores: what a reward model or an LLM judge said of traces, one `{trace_id, score}` a line."""

from pathlib import Path

from distill.errors import UserError
from distill.jsonl import iter_jsonl
from distill.records import Record

SCORES = "scores.jsonl"


class TraceScore(Record):
    """One opinion of one trace, in whatever unit its author uses."""

    trace_id: str
    score: float


def read_scores(path: Path) -> dict[str, float]:
    """Scores of a file, or of `scores.jsonl` in a folder. Raises UserError when a trace has two."""
    file = path / SCORES if path.is_dir() else path
    scores: dict[str, float] = {}
    for row in iter_jsonl(file, TraceScore):
        if scores.setdefault(row.trace_id, row.score) != row.score:
            raise UserError(f"{file}: trace {row.trace_id} has two scores, {scores[row.trace_id]:g} and {row.score:g}")
    return scores
