"""Score: what every look at a style says.

A number for rewards, a reason for filters, and what was counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

QUOTED = 40
"""Characters of a text that a reason quotes."""


@dataclass(frozen=True, slots=True)
class Style:
    """What one look found."""

    score: float
    """In [0, 1]; 1.0 when nothing is wrong."""
    reason: str
    """What is wrong, or nothing."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was counted, for those who want other limits."""


def quoted(text: str) -> str:
    """The beginning of a text on one line, for a reason; half characters and controls are escaped."""
    line = " ".join(text[: QUOTED * 4].split())
    plain = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in line)
    return '"' + (plain if len(plain) <= QUOTED else plain[:QUOTED] + "...") + '"'
