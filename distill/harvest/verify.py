"""Self-verification: the teacher is shown its own answer and asked to check and correct it.

Both versions are kept, the second with `parent`. Whether checking helps is measured, not
assumed: models told to correct themselves without a hint often change what was right (Huang
et al. 2023, arXiv 2310.01798), so the chance that wrong becomes right stands beside the
chance that right becomes wrong, each over problems with a 95% interval.
The check asks for the whole solution again, so that the second version stands by itself.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, Field

from distill.harvest.standing import Drawn, Standings
from distill.intervals import Interval, mean_interval
from distill.records import Record

CHECK = (
    "Check this solution step by step. If you find a mistake, correct it. "
    "Then write the whole solution again, as if for the first time, and end with its answer in the same form."
)


class VerifyConfig(Record):
    """Show the teacher its own answers once more, to be checked and corrected; both versions are kept."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    of: Literal["all", "unverified"] = "all"
    """Which answers: all, or those not judged correct (then nothing is learned of how often checking breaks one)."""
    traces: int = Field(default=1, gt=0)
    """Answers a problem, the first that ended by themselves."""
    instruction: str = Field(default=CHECK, min_length=1)
    """What the user says after the answer."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What checking did."""

    fixed: Interval | None
    """P(correct afterwards | wrong before); None where nothing was wrong."""
    broken: Interval | None
    """P(not correct afterwards | correct before); None where nothing was correct."""
    became: Counter[tuple[str, str]]
    """Status before and after."""


def to_check(rows: Iterable[Drawn], config: VerifyConfig) -> list[Drawn]:
    """The answers of one problem that are checked."""
    ended = [row for row in rows if row.finish == "stop" and row.how != "check"]
    asked = [row for row in ended if config.of == "all" or row.status != "correct"]
    return asked[: config.traces]


def checked(now: Standings) -> Checked:
    """Count what checks did. Several of one problem are one value, their mean."""
    became: Counter[tuple[str, str]] = Counter()
    changed: dict[str, dict[str, list[bool]]] = {"wrong": defaultdict(list), "correct": defaultdict(list)}
    for problem_id in now.problems:
        for row in now.of(problem_id):
            if row.how == "check" and row.parent in now.rows:
                before = now.rows[row.parent].status
                became[before, row.status] += 1
                if before in changed:
                    changed[before][problem_id].append((row.status == "correct") == (before == "wrong"))
    fixed, broken = (_mean(changed[before].values()) for before in ("wrong", "correct"))
    return Checked(fixed, broken, became)


def _mean(values: Iterable[list[bool]]) -> Interval | None:
    means = [sum(group) / len(group) for group in values]
    return mean_interval(means) if means else None
