"""Finding: what a filter of single texts looks at, and what it says."""

from dataclasses import dataclass
from typing import Protocol

from distill.records import Problem


@dataclass(frozen=True, slots=True)
class Text:
    """One trace with its words, while they are in hand."""

    problem: Problem
    reasoning: str | None
    """The thought without its tags."""
    answer: str | None
    """What follows the thought; None when the thought never ended."""
    whole: str
    """What the student is to say."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a trace is not learned from."""

    reason: str
    """A code in kebab-case, counted and filtered by."""
    value: float | str
    """What was measured."""
    threshold: float | str | None
    """What it was held against; None when nothing can be set."""
    detail: str = ""
    """The same in words, for whoever asks why."""


class Filter(Protocol):
    """Lets a text pass, or says why not."""

    name: str

    def look(self, text: Text) -> Finding | None:
        """The first objection, if any. Never raises, whatever the text."""
        ...
