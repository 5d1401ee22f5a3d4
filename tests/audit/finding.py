"""Finding: one line of an audit, and whether what it says is what is claimed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A line to print; `holds` is False where a claim of docs/judge.md is broken."""

    text: str
    holds: bool = True
