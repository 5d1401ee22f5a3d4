"""Benchmark: what one file of this folder says of a set of problems: where it comes from, its rows, what each becomes.

Does not read files (`loading`) and does not know how a problem is put to a model (`evals.protocols`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict

from distill.records import Problem, Record

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


class Row(Record):
    """One line of a benchmark file; columns nobody asked for are passed over."""

    model_config = ConfigDict(extra="ignore")


@dataclass(frozen=True, slots=True)
class Published:
    """A score somebody else printed, to hold ours against."""

    model: str
    score: float
    """A fraction in [0, 1]."""
    how: str
    """Metric and way of asking, as far as the source says."""
    source: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Where a benchmark's rows stand and what each becomes."""

    files: Mapping[Split, str]
    """File name without `.gz`, by split; JSONL unless the name says .csv or .tsv."""
    row: type[Row]
    problem: Callable[[str, Split, Any], Problem | None]
    """(benchmark, split, row) to a problem, or None for a row of another split."""
    paper: str
    license: str
    """Of the problems."""
    origin: str
    """Where the file is published."""
    published: tuple[Published, ...] = ()
    recorded: bool = False
    """A file of recorded answers: a problem has many rows and its first one counts."""
    only: str | None = None
    """A file of recorded traces; only the problems it names are kept."""
    columns: tuple[str, ...] | None = None
    """Names of the columns of a .tsv file, which has no head."""


def from_report(source: str, how: str, scores: Mapping[str, float]) -> tuple[Published, ...]:
    """One table of a report: percentages by model."""
    return tuple(Published(model, score / 100, how, source) for model, score in scores.items())


R1_PAPER = "DeepSeek-R1, arXiv:2501.12948"
R1_HOW = "pass@1 of 64 samples, temperature 0.6, top-p 0.95, 32,768 tokens"
OPEN_R1 = "huggingface/open-r1 README"
