"""How `bench` is cut to a time: problems, from two small examinations of the same checkpoints.

An engine answers many problems at once, so that a second one costs less than the first: seconds are taken to be a
line over problems, drawn through the two. Rows that find no room at once, a machine that is busy in one of the two,
make it a guess; `STEEPEST` keeps it from being a bold one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.pace import Pace, Sized, Tried
from distill.selection import read_problems, select
from evals.bench import BenchConfig

PROBLEMS = (8, 32)
"""Asked in the two small examinations."""
STEEPEST = 0.5
"""A further problem costs at least this share of what one cost on the average of the larger examination."""


def _small(config: BenchConfig, problems: int) -> BenchConfig:
    limit = min(problems, config.select.limit or problems)
    return config.model_copy(update={"select": config.select.model_copy(update={"limit": limit})})


def _pace(tried: Sequence[Tried]) -> Pace:
    few, many = tried
    asked = int(many.manifest.report.counts["problems"])
    further = asked - few.manifest.report.counts["problems"]
    slope = (many.seconds - few.seconds) / further if further else 0.0
    each = max(slope, STEEPEST * many.seconds / asked)
    return Pace(setup=many.seconds - each * asked, each=each, least=asked)


def _cut(config: BenchConfig, inputs: Mapping[str, tuple[Path, ...]], problems: int) -> tuple[BenchConfig, int]:
    (path,) = inputs["problems"]
    whole = len(select(read_problems(path), config.select, path))
    return (config, whole) if problems >= whole else (_small(config, problems), problems)


SIZED = Sized("problems", PROBLEMS, _small, _pace, _cut)
