"""Choosing: which problems of a bench the page shows, with what each checkpoint said to them.

Two of every verdict of every checkpoint come first, then those the checkpoints differ on, evenly over
families and levels. The same items always give the same choice.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.harvest.draw import TRACES, VERDICTS
from distill.ledger import read_ledger
from distill.records import Item, Problem, Trace, Verdict, fingerprint


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


def chosen(items: Mapping[str, Sequence[Item]], count: int, samples: int) -> dict[str, list[Item]]:
    """`count` problems worth reading, with the first `samples` samples of each checkpoint."""
    by_problem: dict[str, list[Item]] = defaultdict(list)
    for rows in items.values():
        for item in _first_samples(rows, samples):
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


def _first_samples(rows: Iterable[Item], most: int) -> Iterator[Item]:
    seen: Counter[str] = Counter()
    for item in sorted(rows, key=lambda item: item.sample_index):
        seen[item.problem_id] += 1
        if seen[item.problem_id] <= most:
            yield item


def shown(
    chosen: Mapping[str, Sequence[Item]], folders: Mapping[str, Sequence[Path]], problems: Mapping[str, Problem]
) -> Iterator[Shown]:
    """The problems chosen, with traces and verdicts from `folders` where they are still there."""
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
