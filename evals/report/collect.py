"""Collect: everything the page shows, read from run folders through their manifests.

Starts at the benches, follows every manifest's inputs back to the problems, and adds the
run folders named besides. A step that is no longer there, or was made again since, is
kept and marked; nothing is guessed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ConfigDict

from distill.harvest.draw import TRACES, VERDICTS
from distill.jsonl import read_jsonl
from distill.ledger import read_ledger
from distill.recipe import is_path
from distill.records import Item, Problem, Record, Score, Trace, Verdict
from distill.runs import MANIFEST, Manifest, read_manifest
from distill.selection import read_problems
from evals.bench import DISAGREEMENTS, ITEMS, PAIRED, SCORES
from evals.examination import Disagreement
from evals.report.choosing import Shown, chosen, shown
from evals.report.composition import Composed, composed
from evals.scoring import Paired

CURVE = "curve.jsonl"
WEIGHTS = (".safetensors", ".gguf", ".bin")
"""Endings of files that hold weights."""
BEGINNINGS = ("teacher-init", "student-init", "student-import")
"""Stages that make a checkpoint nobody trained here."""


class Point(Record):
    """What the page draws of a row of a training curve, of whichever stage."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int
    loss: float | None = None
    loss_reasoning: float | None = None
    loss_answer: float | None = None
    held_out_loss: float | None = None
    held_out_accuracy: float | None = None
    reward: float | None = None
    accuracy: float | None = None
    length: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A run folder in the graph."""

    name: str
    manifest: Manifest | None
    """None for a file, or a folder that is no longer there."""
    inputs: tuple[tuple[str, Path], ...]
    """(field, folder) of each step it read."""
    stale: bool = False
    """Made again since a later step read it."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench folder."""

    name: str
    manifest: Manifest
    scores: tuple[Score, ...]
    paired: tuple[Paired, ...]
    items: Mapping[str, Sequence[Item]]
    """Per checkpoint."""
    parameters: Mapping[str, tuple[int, int]]
    """Per checkpoint whose lineage says so: all parameters, and those active for one token."""
    weights: Mapping[str, int]
    """Per checkpoint whose folder is here: bytes of its weights on disk."""
    roles: Mapping[str, str]
    """Per sampled checkpoint: teacher, base, student or quantized."""
    subjects: Mapping[str, str]
    """Per problem that has one."""
    shown: tuple[Shown, ...]
    disagreements: tuple[Disagreement, ...]

    @property
    def recorded(self) -> bool:
        """True when it scored the traces of harvests."""
        return any(ref.field == "traces" for ref in self.manifest.inputs)

    @property
    def checkpoints(self) -> list[str]:
        """In the order they were named."""
        return list(dict.fromkeys(row.checkpoint for row in self.scores))


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one sampler said, counted: verdicts and lengths in tokens."""

    name: str
    statuses: Counter[str]
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Collected:
    """All the page needs."""

    benches: tuple[Bench, ...]
    steps: Mapping[Path, Step]
    """Inputs before users."""
    curves: Mapping[str, Sequence[Point]]
    harvests: tuple[Spoken, ...]
    sets: tuple[Composed, ...] = ()
    """What curate steps wrote."""

    def problems(self, path: Path) -> dict[str, Problem]:
        """Those a bench asked, by id; empty when they are gone."""
        return _problems(self.steps[path])


def collect(benches: Sequence[Path], runs: Sequence[Path], examples: int, samples: int = 1) -> Collected:
    """Read all of it, with `samples` samples of `examples` problems of each bench to read.

    Raises UserError when a named folder is not a complete run folder.
    """
    steps = _graph([*runs, *benches])
    found = [(path, step) for path, step in steps.items() if step.manifest is not None]
    return Collected(
        benches=tuple(_bench(path, steps, examples, samples) for path in benches),
        steps=steps,
        curves={step.name: read_jsonl(path / CURVE, Point) for path, step in found if (path / CURVE).is_file()},
        harvests=tuple(
            _spoken(path, step.name) for path, step in found if step.manifest and step.manifest.stage == "harvest"
        ),
        sets=tuple(
            composed(step.name, path, step.manifest, _input(step, "problems"))
            for path, step in found
            if step.manifest and step.manifest.stage == "curate"
        ),
    )


def source(folder: Path, name: str) -> Path:
    """Where a step's input stands: beside it, or at the path it names."""
    return Path(name) if is_path(name) else folder.parent / name


def _graph(targets: Iterable[Path]) -> dict[Path, Step]:
    steps: dict[Path, Step] = {}
    stale: set[Path] = set()

    def visit(path: Path) -> None:
        manifest = read_manifest(path)
        inputs = []
        for ref in manifest.inputs:
            folder = source(path, ref.name)
            inputs.append((ref.field, folder))
            if not (folder / MANIFEST).is_file():
                steps.setdefault(folder, Step(folder.name, None, ()))
                continue
            if folder not in steps:
                visit(folder)
            if read_manifest(folder).content != ref.fingerprint:
                stale.add(folder)
        steps[path] = Step(path.name, manifest, tuple(inputs))

    for target in targets:
        if target not in steps:
            visit(target)
    names = _names(steps)
    return {path: replace(step, name=names[path], stale=path in stale) for path, step in steps.items()}


def _names(paths: Iterable[Path]) -> dict[Path, str]:
    """A folder's name, with as many of those above it as tell it from all others."""
    named = {path: path.name for path in paths}
    for depth in range(2, max((len(path.parts) for path in named), default=0) + 1):
        seen = Counter(named.values())
        named = {path: "/".join(path.parts[-depth:]) if seen[name] > 1 else name for path, name in named.items()}
    return named


def _bench(path: Path, steps: Mapping[Path, Step], examples: int, samples: int) -> Bench:
    step = steps[path]
    assert step.manifest is not None, "a named folder was read"
    items: dict[str, list[Item]] = defaultdict(list)
    for item in read_jsonl(path / ITEMS, Item):
        items[item.checkpoint].append(item)
    checkpoints = [folder for field, folder in step.inputs if field == "checkpoints"]
    parameters = {folder.name: _parameters(folder, steps) for folder in checkpoints}
    problems = _problems(step)
    to_read = chosen(items, examples, samples)
    folders = {name: [path / name] for name in items}
    recorded = [folder for field, folder in step.inputs if field == "traces"]
    return Bench(
        name=step.name,
        manifest=step.manifest,
        scores=tuple(read_jsonl(path / SCORES, Score)),
        paired=tuple(read_jsonl(path / PAIRED, Paired)),
        items=items,
        parameters={name: size for name, size in parameters.items() if size},
        weights={folder.name: size for folder in checkpoints if (size := _weights(folder))},
        roles={folder.name: _role(folder, steps) for folder in checkpoints},
        subjects={one.id: one.subject for one in problems.values() if one.subject is not None},
        shown=tuple(shown(to_read, {name: recorded or folders[name] for name in items}, problems)),
        disagreements=tuple(read_jsonl(path / DISAGREEMENTS, Disagreement)) if (path / DISAGREEMENTS).is_file() else (),
    )


def _parameters(path: Path, steps: Mapping[Path, Step]) -> tuple[int, int] | None:
    """Counted where the checkpoint was made, found by following `model` back."""
    step = steps.get(path)
    while step is not None and step.manifest is not None:
        counts = step.manifest.report.counts
        if "parameters" in counts:
            return int(counts["parameters"]), int(counts.get("active_parameters", counts["parameters"]))
        step = next((steps[folder] for field, folder in step.inputs if field == "model"), None)
    return None


def _weights(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*") if file.suffix in WEIGHTS)


def _role(path: Path, steps: Mapping[Path, Step]) -> str:
    """What a checkpoint is, from the stage that made it and the one its line of models began with."""
    stages: list[str] = []
    folder: Path | None = path
    while folder is not None and (step := steps.get(folder)) is not None and step.manifest is not None:
        stages.append(step.manifest.stage)
        folder = _input(step, "model")
    if not stages:
        return ""
    if stages[0] == "quantize":
        return "quantized"
    if stages[0] in BEGINNINGS:
        return "base"
    return {"teacher-init": "teacher", "student-init": "student", "student-import": "student"}.get(stages[-1], "")


def _input(step: Step, field: str) -> Path | None:
    return next((folder for name, folder in step.inputs if name == field), None)


def _problems(step: Step) -> dict[str, Problem]:
    path = _input(step, "problems")
    if path is None or not path.exists():
        return {}
    return {problem.id: problem for problem in read_problems(path)}


def _spoken(path: Path, name: str) -> Spoken:
    statuses: Counter[str] = Counter(verdict.status for verdict in read_ledger(path / VERDICTS, Verdict))
    lengths = tuple(trace.completion_tokens for trace in read_ledger(path / TRACES, Trace))
    return Spoken(name, statuses, lengths)
