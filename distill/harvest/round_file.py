"""Round files: what a round decided, frozen before its first sample is drawn.

`rounds/000.json` is one JSON object with its own SHA-256 in front, written durably. Whoever
resumes a harvest reads it and does the same again, even where verdicts came in another
order, or a newer judge would say something else today.
Does not decide anything (rounds.py).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from distill.errors import UserError
from distill.records import Record, reason, unused
from distill.runs import write_durably

ROUNDS = "rounds"
How = Literal["sample", "continue", "check", "close"]
"""New samples; truncated thoughts continued; answers checked by who gave them; nothing more, with the reasons."""

_HEAD, _HEX, _NEXT = '{"sha256":"', 64, '",'


class Wanted(Record):
    """What one problem gets in a round."""

    problem_id: str
    first: int
    """Index of its first new sample: indexes go on from round to round, each teacher's for itself."""
    n: int = 1
    teacher: str | None = Field(default=None, exclude_if=unused)
    """Who is asked, where there are several."""
    parent: str | None = Field(default=None, exclude_if=unused)
    """The trace that is continued or checked."""
    examples: tuple[str, ...] | None = Field(default=None, exclude_if=unused)
    """Traces shown as worked examples, in the order shown."""


class MadeFrom(Record):
    """What was known when the round was decided."""

    traces: int
    correct: int
    sha256: str
    """Of every trace's id and status, sorted: the order in which verdicts came does not matter."""


class RoundFile(Record):
    """One round's decisions."""

    round: int
    how: How
    policy: str
    """Fingerprint of who is asked, how, and of the tables that decided."""
    made_from: MadeFrom
    temperature: float | None = None
    """Of this round's samples; None where it is the table's, or the parent's."""
    wanted: tuple[Wanted, ...]
    given_up: dict[str, str]
    """By problem: why it gets no more samples though it has not what it should have."""


def write_round(out: Path, decided: RoundFile) -> None:
    """Freeze a round: after this returns it is repeated, whatever happens."""
    (out / ROUNDS).mkdir(exist_ok=True)
    text = decided.to_json()
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_durably(_path(out, decided.round), f"{_HEAD}{digest}{_NEXT}{text[1:]}\n")


def read_rounds(out: Path, policy: str) -> Iterator[RoundFile]:
    """The rounds decided so far, in order. Raises UserError for a file that was changed, or of another policy."""
    count = len(list((out / ROUNDS).glob("[0-9]*.json")))
    for number in range(count):
        path = _path(out, number)
        if not path.is_file():
            raise UserError(f"{path}: missing, though there are {count} round files; expected 000.json and on")
        decided = _unsealed(path)
        if decided.round != number or decided.policy != policy:
            raise UserError(
                f"{path}: round {decided.round} of policy {decided.policy}, expected round {number} of policy "
                f"{policy}: tables, problems, seed or sampler differ; choose another --out"
            )
        yield decided


def _unsealed(path: Path) -> RoundFile:
    text = path.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    start = len(_HEAD) + _HEX + len(_NEXT)
    body = "{" + text[start:]
    if not text.startswith(_HEAD) or hashlib.sha256(body.encode()).hexdigest() != text[len(_HEAD) :][:_HEX]:
        raise UserError(f"{path}: not the bytes that were sealed; was it edited?")
    try:
        return RoundFile.model_validate_json(body)
    except ValidationError as error:
        raise UserError(f"{path}: not a round file this version can read ({reason(error)})") from error


def _path(out: Path, number: int) -> Path:
    return out / ROUNDS / f"{number:03}.json"
