"""Examination: a checkpoint's answers to the problems, as judged items.

Two ways in, one way out. A checkpoint is sampled through harvest's own core, so the prompt,
the judge and the resuming are those of training data; recorded traces of a harvest are
taken as they stand, each sampler being a checkpoint, and their verdicts are held against
the recording's labels where it has any.
Does not compute scores (evals.scoring).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.harvest.accounting import Account
from distill.harvest.draw import TRACES, VERDICTS, Judge, sample_and_judge
from distill.jsonl import read_jsonl
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.records import Item, Params, Problem, Record, Status, Trace, Verdict
from distill.sampling.protocols import Sampler
from distill.sampling.replay import LABELS, Label
from distill.selection import Ask, Instruction
from evals.protocols import JUDGED, Protocol, Reader, Reading, protocol_name


class Disagreement(Record):
    """A recorded answer on which the judge and the recording's own label differ."""

    checkpoint: str
    problem_id: str
    trace_id: str
    label: bool
    source: str
    status: Status
    extracted: str | None = None
    expected: str | None = None
    why: str = ""


class Read(Record):
    """What one more reading of a protocol makes of one sample."""

    checkpoint: str
    problem_id: str
    sample_index: int
    trace_id: str
    reading: str
    status: Status
    extracted: str | None = None
    expected: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """One checkpoint after its examination."""

    fingerprint: str
    protocol: str
    """Name of the way of asking, with a hash of all that belongs to it."""
    items: tuple[Item, ...]
    tokens: int = 0
    """Generated now, not before."""
    resumed: int = 0
    labels: int = 0
    disagreements: tuple[Disagreement, ...] = ()
    further: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    """The same samples under the further readings of the protocol, by their names."""
    read: tuple[Read, ...] = ()
    """What those readings found."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How every checkpoint is asked."""

    name: str
    """Of the protocol, or greedy, sampled, recorded."""
    params: Params
    samples: int
    ask: Ask
    seed: int
    instruction: Instruction | None = None
    """Where no protocol has words of its own."""
    protocol: Protocol | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the protocol that this bench sets otherwise."""

    def called(self, judges: Iterable[str]) -> str:
        """What a score carries: the name with a hash of all that belongs to the asking."""
        asked, versions = [self.params.to_json()], sorted(judges)
        return protocol_name(self.name, self.protocol, self.changed, [asked, self.samples, self.instruction, versions])


def examine(
    name: str,
    problems: Sequence[Problem],
    out: Path,
    asked: Asking,
    *,
    sampler: Sampler,
    judge: Judge,
    progress: Progress,
    account: Account | None = None,
) -> Examined:
    """Sample what `out` does not hold yet, the longest prompts first, so that prompts of like length run together.

    Raises UserError when samples did not arrive, StoppedError when `account` affords no more.
    """
    readings = asked.protocol.readings if asked.protocol is not None else (JUDGED,)
    rows = sample_and_judge(
        sorted(problems, key=lambda problem: -sum(len(turn.content) for turn in asked.ask(problem))),
        out,
        asked.params,
        asked.samples,
        sampler=sampler,
        judge=Reader(readings[0], judge),
        seed=asked.seed,
        progress=progress,
        label=f"bench {name}",
        ask=asked.ask,
        account=account,
    )
    items: list[Item] = []
    judges: set[str] = set()
    kept: list[tuple[Problem, Trace]] = []
    tokens = resumed = 0
    for row in rows:
        assert row.verdict is not None, "a judge was given"
        items.append(_item(name, row.problem, row.trace, row.verdict))
        judges.add(row.verdict.judge_version)
        if len(readings) > 1:
            kept.append((row.problem, row.trace))
        resumed += row.resumed
        tokens += 0 if row.resumed else row.trace.completion_tokens
    missing = len(problems) * asked.samples - len(items)
    if missing:
        raise UserError(f"{name}: {missing:,} samples did not arrive; the same command asks only for them")
    further, read = {}, list[Read]()
    for reading in readings[1:]:
        again = list(_reread(name, kept, reading, judge, judges, read))
        further[reading.name] = _in_order(again)
    return Examined(
        sampler.identity.revision,
        asked.called(judges),
        _in_order(items),
        tokens,
        resumed,
        further=further,
        read=tuple(sorted(read, key=lambda row: (row.problem_id, row.sample_index, row.reading))),
    )


def _reread(
    name: str,
    kept: Sequence[tuple[Problem, Trace]],
    reading: Reading,
    judge: Judge,
    judges: set[str],
    read: list[Read],
) -> Iterator[Item]:
    """Items by another reading; `judges` and `read` are added to."""
    for (problem, trace), verdict in zip(kept, Reader(reading, judge).judge_many(kept), strict=True):
        judges.add(f"{reading.name}: {verdict.judge_version}")
        item = _item(name, problem, trace, verdict)
        found = verdict.model_dump(include={"status", "extracted", "expected", "why"})
        named = item.model_dump(include={"checkpoint", "problem_id", "sample_index", "trace_id"})
        read.append(Read(reading=reading.name, **named, **found))
        yield item


def recorded(
    folders: Sequence[Path], problems: Sequence[Problem], known: set[str], protocol: str
) -> dict[str, Examined]:
    """One examination for each sampler found in harvest folders.

    `problems` are the ones asked about, `known` the ids of all that exist: an answer to any
    other problem means the wrong problems were named, and is a UserError.
    """
    asked = {problem.id: problem for problem in problems}
    by_name: dict[str, list[_Row]] = {}
    seen: dict[str, Path] = {}
    for folder in folders:
        for row in _judged_traces(folder):
            trace = row[0]
            if trace.id in seen:
                raise UserError(f"traces: trace {trace.id} is in {seen[trace.id]} and in {folder}; it can count once")
            seen[trace.id] = folder
            if trace.problem_id not in known:
                raise UserError(
                    f"{folder}: trace {trace.id} answers {trace.problem_id!r}, no problem of that id is given"
                )
            if trace.problem_id in asked:
                by_name.setdefault(trace.sampler.name, []).append(row)
    if not by_name:
        where = ", ".join(str(folder) for folder in folders)
        raise UserError(f"traces: none of the {len(asked)} selected problems is answered in {where}")
    return {name: _one_recorded(name, rows, asked, protocol) for name, rows in sorted(by_name.items())}


_Row = tuple[Trace, Verdict, Label | None]


def _judged_traces(folder: Path) -> Iterator[_Row]:
    verdicts = {verdict.trace_id: verdict for verdict in read_ledger(folder / VERDICTS, Verdict)}
    path = folder / LABELS
    labels = {label.trace_id: label for label in read_jsonl(path, Label)} if path.is_file() else {}
    for trace in read_ledger(folder / TRACES, Trace):
        if trace.id not in verdicts:
            raise UserError(f"{folder}: trace {trace.id} has no verdict; judge the folder first (distill judge)")
        yield trace, verdicts[trace.id], labels.get(trace.id)


def _one_recorded(name: str, rows: Sequence[_Row], asked: Mapping[str, Problem], protocol: str) -> Examined:
    revisions = sorted({trace.sampler.revision for trace, _, _ in rows})
    if len(revisions) > 1:
        raise UserError(f"traces: {name} has {len(revisions)} revisions ({', '.join(revisions)}); bench them apart")
    items = [_item(name, asked[trace.problem_id], trace, verdict) for trace, verdict, _ in rows]
    most = max(Counter(item.problem_id for item in items).values())
    judges = {verdict.judge_version for _, verdict, _ in rows}
    return Examined(
        fingerprint=revisions[0],
        protocol=protocol_name(
            protocol, None, {}, [_asked(trace.params for trace, _, _ in rows), most, None, sorted(judges)]
        ),
        items=_in_order(items),
        labels=sum(label is not None for _, _, label in rows),
        disagreements=tuple(
            _disagreement(name, trace, verdict, label)
            for trace, verdict, label in rows
            if label is not None and label.label != (verdict.status == "correct")
        ),
    )


def _asked(params: Iterable[Params | None]) -> list[str]:
    """Every way in which recorded traces were sampled."""
    return sorted({one.to_json() if one else "unknown" for one in params})


def _item(checkpoint: str, problem: Problem, trace: Trace, verdict: Verdict) -> Item:
    return Item(
        checkpoint=checkpoint,
        problem_id=problem.id,
        sample_index=trace.sample_index,
        status=verdict.status,
        trace_id=trace.id,
        task=problem.source,
        level=problem.level,
        tokens=trace.completion_tokens,
        answer=verdict.extracted if problem.kind == "answer" else None,
    )


def _disagreement(checkpoint: str, trace: Trace, verdict: Verdict, label: Label) -> Disagreement:
    return Disagreement(
        checkpoint=checkpoint,
        problem_id=trace.problem_id,
        trace_id=trace.id,
        label=label.label,
        source=label.source,
        status=verdict.status,
        extracted=verdict.extracted,
        expected=verdict.expected,
        why=verdict.why,
    )


def _in_order(items: list[Item]) -> tuple[Item, ...]:
    return tuple(sorted(items, key=lambda item: (item.problem_id, item.sample_index)))
