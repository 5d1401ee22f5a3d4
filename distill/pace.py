"""Pace: what a stage has to tell so that a number of minutes can be turned into a budget of its own kind.

Recipes say steps, tokens and problems, never seconds. A stage that can be cut to a time says here how a small run
of it looks, what such runs tell of its pace, and which table a budget makes. `distill.minutes` does the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError, did_you_mean
from distill.runs import Manifest

MINUTES = "minutes"
"""Table of a recipe that is no step: shares of `--minutes`."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A small run that is done."""

    folder: Path
    manifest: Manifest

    @property
    def seconds(self) -> float:
        """All of it, loading and saving included."""
        return self.manifest.seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a run are `setup` and `each` times its units."""

    setup: float
    each: float
    least: int
    """Units of the largest small run: a real run is no smaller."""

    def units(self, seconds: float) -> int:
        """How many units fit."""
        return max(0, int((seconds - self.setup) / self.each))

    def seconds(self, units: int) -> float:
        """How long a run of so many units takes."""
        return self.setup + self.each * units


@dataclass(frozen=True, slots=True)
class Sized:
    """How a stage is cut to a time."""

    unit: str
    """What its budget counts."""
    sizes: tuple[int, ...]
    """Of the small runs, in order."""
    small: Callable[[Any, int], Any]
    """The table of a small run, made from the recipe's."""
    pace: Callable[[Sequence[Tried]], Pace]
    cut: Callable[[Any, Mapping[str, tuple[Path, ...]], int], tuple[Any, int]]
    """The table of a run of so many units at most, and how many it has, from the recipe's table and the paths it reads:
    never more than the recipe asks for."""


def shares(path: Path, table: Any, steps: Mapping[str, tuple[str, Sized | None]]) -> Mapping[str, float]:
    """The checked table `[minutes]` of a recipe: share of each step. `steps`: stage of each, and how it is sized.

    Raises UserError naming file and key.
    """
    where = f"{path}: [{MINUTES}]"
    if not isinstance(table, dict):
        raise UserError(f"{path}: {MINUTES}: expected a table of shares, got {table!r}")
    for name, share in table.items():
        if name not in steps:
            raise UserError(f"{where} {name}: unknown step{did_you_mean(name, steps)}")
        stage, sized = steps[name]
        if sized is None:
            raise UserError(f"{where} {name}: stage {stage} has no budget that minutes could size")
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
            raise UserError(f"{where} {name}: expected a share above 0 and at most 1, got {share!r}")
    if sum(table.values()) > 1 + 1e-9:
        raise UserError(f"{where}: the shares sum to {sum(table.values()):g}, expected at most 1")
    return {name: float(share) for name, share in table.items()}
