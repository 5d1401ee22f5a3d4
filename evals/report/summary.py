"""Summary: the figures of a page as one record - `report.json`, and the source of the Markdown.

Everything in it stands on the page too and is made by the same functions; traces do not, they stay where they are.
"""

from collections.abc import Sequence
from typing import Any

from distill.intervals import Interval
from distill.records import Record, Score
from evals.report.again import Again
from evals.report.collect import Bench, Collected
from evals.report.flips import flips_of
from evals.report.subjects import by_subject
from evals.report.yields import share
from evals.scoring import Paired

LAYOUT = 1
"""Of `report.json`; raised when a reader of the older one would be wrong."""


class Ranged(Record):
    """A share with its 95% interval over n."""

    value: float
    low: float
    high: float
    n: int


class Checkpoint(Record):
    """What is known of one examined checkpoint."""

    name: str
    role: str
    """teacher, base, student, quantized, or empty where nobody knows."""
    parameters: int | None = None
    active_parameters: int | None = None
    bytes: int | None = None
    """Of its weight files."""


class Flipped(Record):
    """Problems of a pair by who solves them more often."""

    a: str
    b: str
    n: int
    both: int
    gained: int
    lost: int
    neither: int


class Examined(Record):
    """One bench."""

    name: str
    recorded: bool
    checkpoints: tuple[Checkpoint, ...]
    scores: tuple[Score, ...]
    paired: tuple[Paired, ...]
    flips: tuple[Flipped, ...]
    subjects: dict[str, dict[str, Ranged]]
    """Per subject and checkpoint."""
    notes: tuple[str, ...]


class Harvested(Record):
    """One harvest."""

    name: str
    correct: Ranged
    statuses: dict[str, int]
    tokens: int
    spent: dict[str, Any]


class Ran(Record):
    """One step."""

    name: str
    stage: str
    fingerprint: str
    seed: int
    seconds: float
    tokens: int
    started: str
    commit: str | None
    device: str
    versions: dict[str, str]
    inputs: dict[str, list[str]]
    counts: dict[str, int | float]
    stale: bool
    """Made again since a later step read it."""


class Summary(Record):
    """A whole report."""

    layout: int = LAYOUT
    title: str
    benches: tuple[Examined, ...]
    harvests: tuple[Harvested, ...]
    steps: tuple[Ran, ...]
    """Inputs before users."""
    commands: tuple[str, ...]
    """What makes all of it once more."""


def summarize(found: Collected, title: str, made: Sequence[Again]) -> Summary:
    """All figures of the page."""
    manifests = {step.name: step.manifest for step in found.steps.values() if step.manifest is not None}
    return Summary(
        title=title,
        benches=tuple(_examined(bench) for bench in found.benches),
        harvests=tuple(
            Harvested(
                name=one.name,
                correct=_ranged(share(one)),
                statuses=dict(one.statuses),
                tokens=sum(one.lengths),
                spent=manifests[one.name].report.marks.get("spent", {}),
            )
            for one in found.harvests
            if one.statuses
        ),
        steps=tuple(_steps(found)),
        commands=tuple(one.commands for one in made),
    )


def _examined(bench: Bench) -> Examined:
    return Examined(
        name=bench.name,
        recorded=bench.recorded,
        checkpoints=tuple(_checkpoint(bench, name) for name in bench.checkpoints),
        scores=bench.scores,
        paired=bench.paired,
        flips=tuple(
            Flipped(
                a=one.a,
                b=one.b,
                n=one.n,
                both=one.both,
                gained=len(one.gained),
                lost=len(one.lost),
                neither=one.neither,
            )
            for one in flips_of(bench)
        ),
        subjects={
            subject: {name: _ranged(at) for name, at in row.items()} for subject, row in by_subject(bench).items()
        },
        notes=tuple(bench.manifest.report.marks.get("notes", ())),
    )


def _checkpoint(bench: Bench, name: str) -> Checkpoint:
    size = bench.parameters.get(name)
    return Checkpoint(
        name=name,
        role=bench.roles.get(name, ""),
        parameters=size and size[0],
        active_parameters=size and size[1],
        bytes=bench.weights.get(name),
    )


def _steps(found: Collected) -> list[Ran]:
    made = []
    for step in found.steps.values():
        if step.manifest is None:
            continue
        inputs: dict[str, list[str]] = {}
        for field, folder in step.inputs:
            inputs.setdefault(field, []).append(folder.name)
        made.append(
            Ran(
                name=step.name,
                stage=step.manifest.stage,
                fingerprint=step.manifest.content,
                seed=step.manifest.seed,
                seconds=step.manifest.seconds,
                tokens=step.manifest.report.tokens,
                started=step.manifest.started,
                commit=step.manifest.git_commit,
                device=step.manifest.device,
                versions=step.manifest.versions,
                inputs=inputs,
                counts=step.manifest.report.counts,
                stale=step.stale,
            )
        )
    return made


def _ranged(at: Interval) -> Ranged:
    return Ranged(value=at.value, low=at.low, high=at.high, n=at.n)
