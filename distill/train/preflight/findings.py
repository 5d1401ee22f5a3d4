"""What a preflight found: one line a check, one example to look at."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.train.preflight.example import Shown


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    what: str
    found: str
    """The figure, in words; the same for the same inputs."""
    now: str = ""
    """What is so on this machine at this moment: shown, never recorded."""
    look: bool = False
    """Not refused, yet worth a look before the run."""

    def line(self, width: int) -> str:
        """As one row of the table."""
        told = f"{self.found}, {self.now}" if self.now else self.found
        return f"{self.what:<{width}}  {'LOOK: ' if self.look else ''}{told}"


@dataclass(frozen=True, slots=True)
class Findings:
    """All of a preflight that refused nothing."""

    checks: tuple[Finding, ...]
    counts: dict[str, int | float] = field(default_factory=dict)
    """Figures for the manifest."""
    example: "Shown | None" = None

    def and_then(self, finding: Finding, **counts: int | float) -> "Findings":
        """With one more check."""
        return Findings((*self.checks, finding), {**self.counts, **counts}, self.example)

    @property
    def recorded(self) -> dict[str, str]:
        """What the manifest keeps: what was checked and found."""
        return {check.what: check.found for check in self.checks}

    @property
    def table(self) -> tuple[str, ...]:
        """Plain aligned text for the screen."""
        width = max(len(check.what) for check in self.checks)
        return tuple(check.line(width) for check in self.checks)

    @property
    def looks(self) -> tuple[str, ...]:
        """What is worth a look, one line each."""
        return tuple(f"look: {check.what}: {check.found}" for check in self.checks if check.look)


class Faults:
    """Rows that are refused, gathered by kind of fault, so that one message says how many share it."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[tuple[str, int, str]]] = {}

    def add(self, kind: str, where: str, line: int, complaint: str) -> None:
        """A row of line `line` has this fault; `where` names it in full."""
        self.kinds.setdefault(kind, []).append((where, line, complaint))

    @property
    def message(self) -> str:
        """One line a kind: the first row in full, the lines of some others. Empty where nothing is wrong."""
        return "\n".join(_told(rows) for rows in self.kinds.values())


OTHERS = 5
"""Further lines named beside a fault's first row."""


def _told(rows: list[tuple[str, int, str]]) -> str:
    where, _, complaint = rows[0]
    others = [str(line) for _, line, _ in rows[1 : 1 + OTHERS]]
    if not others:
        return f"{where}: {complaint}"
    more = ", ..." if len(rows) > 1 + OTHERS else ""
    noun = "line" if len(rows) == 2 else "lines"
    return f"{where}: {complaint} ({len(rows) - 1:,} more such: {noun} {', '.join(others)}{more})"
