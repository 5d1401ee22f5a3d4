"""Collect: everything the page shows, read from run folders through their manifests.

Starts at the benches, follows every manifest's inputs back to the problems, and adds the
run folders named besides. A step that is no longer there, or was made again since, is
kept and marked; nothing is guessed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ConfigDict

from distill.harvest.draw import TRACES, VERDICTS
from distill.jsonl import read_jsonl
from distill.ledger import read_ledger
from distill.recipe import is_path
from distill.records import Item, Problem, Record, Score, Trace, Verdict, fingerprint
from distill.runs import MANIFEST, Manifest, read_manifest
from distill.selection import read_problems
from evals.bench import DISAGREEMENTS, ITEMS, PAIRED, SCORES
from evals.examination import Disagreement
from evals.scoring import Paired

CURVE = "curve.jsonl"


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
class Answer:
    """One shown sample."""

    checkpoint: str
    item: Item
    trace: Trace | None
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Shown:
    """One problem with what each checkpoint said."""

    problem_id: str
    task: str
    level: int | None
    problem: Problem | None
    answers: tuple[Answer, ...]


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


def collect(benches: Sequence[Path], runs: Sequence[Path], examples: int) -> Collected:
    """Read all of it. Raises UserError when a named folder is not a complete run folder."""
    steps = _graph([*runs, *benches])
    found = [(path, step) for path, step in steps.items() if step.manifest is not None]
    return Collected(
        benches=tuple(_bench(path, steps, examples) for path in benches),
        steps=steps,
        curves={step.name: read_jsonl(path / CURVE, Point) for path, step in found if (path / CURVE).is_file()},
        harvests=tuple(_spoken(path) for path, step in found if step.manifest and step.manifest.stage == "harvest"),
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
    return {path: replace(step, stale=path in stale) for path, step in steps.items()}


def _bench(path: Path, steps: Mapping[Path, Step], examples: int) -> Bench:
    step = steps[path]
    assert step.manifest is not None, "a named folder was read"
    items: dict[str, list[Item]] = defaultdict(list)
    for item in read_jsonl(path / ITEMS, Item):
        items[item.checkpoint].append(item)
    parameters = {folder.name: _parameters(folder, steps) for field, folder in step.inputs if field == "checkpoints"}
    chosen = _chosen(items, examples)
    folders = {name: [path / name] for name in items}
    recorded = [folder for field, folder in step.inputs if field == "traces"]
    return Bench(
        name=step.name,
        manifest=step.manifest,
        scores=tuple(read_jsonl(path / SCORES, Score)),
        paired=tuple(read_jsonl(path / PAIRED, Paired)),
        items=items,
        parameters={name: size for name, size in parameters.items() if size},
        shown=tuple(_shown(chosen, {name: recorded or folders[name] for name in items}, _problems(step))),
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


def _problems(step: Step) -> dict[str, Problem]:
    path = next((folder for field, folder in step.inputs if field == "problems"), None)
    if path is None or not path.exists():
        return {}
    return {problem.id: problem for problem in read_problems(path)}


def _chosen(items: Mapping[str, Sequence[Item]], count: int) -> dict[str, list[Item]]:
    """Problems worth reading, with the first sample of each checkpoint.

    Two of every verdict of every checkpoint first, then those the checkpoints differ on,
    evenly over families and levels. The same items always give the same choice.
    """
    by_problem: dict[str, list[Item]] = defaultdict(list)
    for rows in items.values():
        for item in _first_samples(rows):
            by_problem[item.problem_id].append(item)
    queue = sorted(by_problem, key=lambda problem_id: fingerprint(problem_id))
    chosen: dict[str, None] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for problem_id in queue:
        kinds = {(item.checkpoint, item.status) for item in by_problem[problem_id]}
        if any(seen[kind] < 2 for kind in kinds):
            chosen[problem_id] = None
            seen.update(kinds)
    turn: Counter[object] = Counter()
    rank = {}
    for problem_id in sorted(queue, key=lambda name: len({item.status for item in by_problem[name]}) == 1):
        place = (by_problem[problem_id][0].task, by_problem[problem_id][0].level)
        rank[problem_id] = turn[place]
        turn[place] += 1
    chosen.update(dict.fromkeys(sorted(rank, key=lambda problem_id: rank[problem_id])))
    return {problem_id: by_problem[problem_id] for problem_id in list(chosen)[:count]}


def _first_samples(rows: Iterable[Item]) -> Iterator[Item]:
    seen = set()
    for item in sorted(rows, key=lambda item: item.sample_index):
        if item.problem_id not in seen:
            seen.add(item.problem_id)
            yield item


def _shown(
    chosen: Mapping[str, Sequence[Item]], folders: Mapping[str, Sequence[Path]], problems: Mapping[str, Problem]
) -> Iterator[Shown]:
    wanted = {item.trace_id for items in chosen.values() for item in items}
    places = {folder for several in folders.values() for folder in several if (folder / TRACES).is_dir()}
    traces = {
        trace.id: trace
        for folder in sorted(places)
        for trace in read_ledger(folder / TRACES, Trace)
        if trace.id in wanted
    }
    verdicts = {
        verdict.trace_id: verdict
        for folder in sorted(places)
        for verdict in read_ledger(folder / VERDICTS, Verdict)
        if verdict.trace_id in wanted
    }
    for problem_id, items in sorted(chosen.items(), key=lambda pair: (pair[1][0].task, pair[1][0].level or 0, pair[0])):
        yield Shown(
            problem_id=problem_id,
            task=items[0].task,
            level=items[0].level,
            problem=problems.get(problem_id),
            answers=tuple(
                Answer(item.checkpoint, item, traces.get(item.trace_id), verdicts.get(item.trace_id)) for item in items
            ),
        )


def _spoken(path: Path) -> Spoken:
    statuses: Counter[str] = Counter(verdict.status for verdict in read_ledger(path / VERDICTS, Verdict))
    lengths = tuple(trace.completion_tokens for trace in read_ledger(path / TRACES, Trace))
    return Spoken(path.name, statuses, lengths)
