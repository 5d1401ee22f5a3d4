"""Explain: one trace's way through a curate step, in words, from the history the step wrote."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from distill.curate.history import HISTORY, Event, Fate
from distill.errors import UserError, did_you_mean, shown
from distill.runs import read_manifest

MEANING = {
    "trainable": "ends by itself, says something, answers no test problem",
    "verified": "judged correct, where no program could reach its judge",
    "distinct": "no earlier trace asks and says the same",
    "clean": "shares nothing with a held-out problem",
    "short-enough": "fits the student's limit",
    "likely-enough": "not too surprising for the student",
    "at-most": "its problem had room",
}
"""What passing a step says of a trace; of filters of texts it says that they had no objection."""
NEAR = 2
"""Characters at the beginning, or at the end, that an id shares with one it may have been meant for."""


def find_fate(folder: Path, trace_id: str) -> Fate:
    """What became of a trace in a finished curate run folder. Raises UserError when it never came there."""
    read_manifest(folder)
    path = folder / HISTORY
    needle = f'"trace_id":{json.dumps(trace_id, ensure_ascii=False)},'.encode("utf-8", "surrogatepass")
    for line in _lines(path):
        if needle in line:
            fate = Fate.model_validate_json(line)
            if fate.trace_id == trace_id:
                return fate
    near = [known for known in _ids(path) if known[:NEAR] == trace_id[:NEAR] or known[-NEAR:] == trace_id[-NEAR:]]
    raise UserError(f"{path}: no trace {shown(trace_id)}{did_you_mean(trace_id, near)}")


def in_words(fate: Fate, step: str) -> str:
    """The fate as lines of text; `step` is the name of the curate step."""
    last = fate.steps[-1]
    end = f"kept, as example {fate.example_id}" if fate.kept else f"not kept, {last[0]} dropped it ({last[2]})"
    head = f"trace {fate.trace_id} of problem {fate.problem_id} in [{step}]: {end}"
    width = max(len(event[0]) for event in fate.steps)
    return "\n".join([head, *(f"  {event[0]:<{width}}  {_said(event)}" for event in fate.steps)])


def _said(event: Event) -> str:
    step, outcome, reason, value, threshold, detail = event
    said = f"{outcome}: {reason or MEANING.get(step, 'no objection')}"
    measured = [
        f"{name} {fact:,}" if isinstance(fact, int | float) else f"{name} {shown(fact)}"
        for name, fact in (("value", value), ("threshold", threshold))
        if fact is not None
    ]
    return said + (f" ({', '.join(measured)})" if measured else "") + (f"; {detail}" if detail else "")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as lines:
            yield from lines
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; a version that kept no history made this folder: run it again"
        ) from error


def _ids(path: Path) -> Iterator[str]:
    for line in _lines(path):
        found = re.match(rb'{"trace_id":("(?:[^"\\]|\\.)*")', line)
        if found:
            yield str(json.loads(found.group(1)))
