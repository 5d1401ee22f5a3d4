"""Judge a run folder again: stored traces get verdicts of today's judge, and nothing is sampled.

New verdicts go into a ledger of their own beside the one in use, so that no other stage ever
reads a mixture. When all are there the two change places: `verdicts/` holds the newest verdict
of every trace, `verdicts-1/`, `verdicts-2/` and on what judges said before. The manifest tells
it, so later steps run again. A kill at any instant loses no verdict that was acknowledged.

Does not touch traces, and not the scores of a bench, which were counted from its verdicts.
"""

import hashlib
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from pydantic import Field

from distill.errors import UserError, did_you_mean
from distill.harvest import TRACES, VERDICTS
from distill.judge.judge import JUDGE_VERSION, Judge
from distill.ledger import SUMS, Ledger, count_records, read_ledger, shard_files
from distill.progress import Progress
from distill.records import Problem, Record, Status, Trace, Verdict
from distill.runs import MANIFEST, Manifest, Report, hold, read_manifest, sync_folder, write_durably
from distill.selection import iter_problems
from distill.traces.asked import problems_of
from distill.traces.index import check_ledger, open_index
from distill.traces.joined import Joined, joined
from distill.traces.show import older_ledgers
from distill.traces.stats import UNJUDGED, Stats, mix, stats

STAGED, STATE = f"{VERDICTS}.partial", ".judging.json"
BECAME = " -> "
JUDGED_STAGES = ("harvest", "import")
ALL = "all"
AGAIN = (ALL, *get_args(Status))

Renew = Callable[[Manifest], tuple[str, str] | None]
"""From a manifest the stage version and fingerprint of today, when only the judge is newer."""


class Judging(Record):
    """What is under way in a folder: the same again goes on, anything else begins anew."""

    judge_version: str
    again: tuple[str, ...]
    timeout: float
    seals: str
    """Hash of the seals of the traces."""
    archive: str | None = None
    """Set when all verdicts are there: where the old ones go."""
    changes: dict[str, int] = Field(default_factory=dict)
    """Set with it: how many verdicts became what, `wrong -> correct`."""


def judge_folder(
    folder: Path,
    *,
    again: tuple[str, ...],
    problems: Path | None,
    judge: Judge,
    progress: Progress,
    renew: Renew,
) -> Report:
    """Verdicts for traces that have none of today's judge, and for those whose status is in `again`.

    Raises UserError when the folder is no finished harvest or import, or its problems are not known.
    """
    _check(folder, again)
    statuses = get_args(Status) if ALL in again else again
    with hold(folder):
        file = problems_of(folder, problems)
        if file is None:
            raise UserError(f"{folder}: nothing says which problems it answers; name them with --problems")
        state = _state(folder)
        if state is None or state.archive is None:
            traces, due = _count(folder, statuses, progress)
            if not due:
                line = f"{traces:,} traces, each with a verdict of judge {JUDGE_VERSION}: nothing to do"
                return Report(counts={"traces": traces, "judged": 0, "changed": 0}, lines=(line,))
            judge.prepare(iter_problems(file))
            asked = _asked(folder, again, judge.timeout)
            if state != asked:
                shutil.rmtree(folder / STAGED, ignore_errors=True)
                write_durably(folder / STATE, asked.to_json())
            changes = _judge_all(folder, file, statuses, judge, progress)
            state = asked.model_copy(update={"archive": _archive(folder), "changes": changes})
            write_durably(folder / STATE, state.to_json())
        _change_places(folder, state)
        told = stats(folder, problems=file, progress=progress)
        report = _report(told, state.changes)
        if (folder / MANIFEST).is_file():
            _tell(folder, told, report, renew)
        (folder / STATE).unlink()
    return report


def _count(folder: Path, statuses: tuple[str, ...], progress: Progress) -> tuple[int, int]:
    """How many traces there are, and how many are due."""
    named = ", ".join("?" * len(statuses))
    with open_index(folder, progress) as index:
        due = index.one(
            f"SELECT count(*) FROM ruled WHERE judge IS NOT ? OR status IN ({named})", (JUDGE_VERSION, *statuses)
        )
        return index.one("SELECT count(*) FROM traces"), due


def _check(folder: Path, again: tuple[str, ...]) -> None:
    for name in again:
        if name not in AGAIN:
            raise UserError(f"--again {name}: unknown{did_you_mean(name, AGAIN)}; there are {', '.join(AGAIN)}")
    check_ledger(folder)
    if folder.name.endswith(".partial"):
        raise UserError(f"{folder}: not finished; run its step to the end first")
    for place in (folder, folder.parent):
        if (place / MANIFEST).is_file() and read_manifest(place).stage not in JUDGED_STAGES:
            stage = read_manifest(place).stage
            raise UserError(f"{folder}: is of stage {stage}, whose scores were counted from its verdicts; run it again")


def _state(folder: Path) -> Judging | None:
    path = folder / STATE
    return Judging.model_validate_json(path.read_bytes()) if path.is_file() else None


def _asked(folder: Path, again: tuple[str, ...], timeout: float) -> Judging:
    shards = [[shard.name, shard.stat().st_size] for shard in shard_files(folder / TRACES)]
    sums = folder / TRACES / SUMS
    digest = hashlib.sha256(f"{shards}{sums.read_text() if sums.is_file() else ''}".encode()).hexdigest()
    return Judging(judge_version=JUDGE_VERSION, again=tuple(sorted(again)), timeout=timeout, seals=digest[:16])


def _judge_all(
    folder: Path, problems: Path, statuses: tuple[str, ...], judge: Judge, progress: Progress
) -> dict[str, int]:
    """A verdict for every trace into the staged ledger, in the order of the traces; those not due are carried over.

    What is staged already is the beginning of it. Returns what became of the verdicts.
    """
    changes: Counter[str] = Counter()
    with Ledger(folder / STAGED) as ledger, open_index(folder, progress) as index:
        stored = count_records(folder / STAGED)
        rows = joined(index, problems)
        waiting: deque[Joined] = deque()
        for found, verdict in zip(islice(rows, stored), read_ledger(folder / STAGED, Verdict), strict=True):
            assert verdict.trace_id == found.trace.id, "the staged verdicts must be the beginning of the traces"
            changes[_change(found, verdict)] += _due(found, statuses)

        def pairs() -> Iterator[tuple[Problem, Trace]]:
            for found in rows:
                if found.problem is None:
                    raise UserError(f"{problems}: has no problem {found.trace.problem_id!r}, which traces answer")
                waiting.append(found)
                if _due(found, statuses):
                    yield found.problem, found.trace

        def store(found: Joined, verdict: Verdict) -> None:
            changes[_change(found, ledger.append(verdict))] += _due(found, statuses)
            task.advance(facts=f"{_changed(changes):,} changed")

        def carry_over() -> None:
            while waiting and not _due(waiting[0], statuses):
                found = waiting.popleft()
                assert found.verdict is not None, "a trace without a verdict is due"
                store(found, found.verdict)

        total = index.one("SELECT count(*) FROM traces") - stored
        with progress.task(f"judge {folder}", total=total, unit="traces") as task:
            for verdict in judge.judge_many(pairs()):
                carry_over()
                assert verdict.trace_id == waiting[0].trace.id, "the judge must answer in order"
                store(waiting.popleft(), verdict)
            carry_over()
    return dict(+changes)


def _due(found: Joined, statuses: tuple[str, ...]) -> bool:
    verdict = found.verdict
    return verdict is None or verdict.judge_version != JUDGE_VERSION or verdict.status in statuses


def _change(found: Joined, verdict: Verdict) -> str:
    return f"{UNJUDGED if found.verdict is None else found.verdict.status}{BECAME}{verdict.status}"


def _changed(changes: Mapping[str, int]) -> int:
    return sum(count for name, count in changes.items() if len(set(name.split(BECAME))) > 1)


def _archive(folder: Path) -> str:
    older = older_ledgers(folder)
    return f"{VERDICTS}-{1 + (int(older[-1].name.rpartition('-')[2]) if older else 0)}"


def _change_places(folder: Path, state: Judging) -> None:
    """Old verdicts aside, new ones in. Either may have been done before a kill."""
    assert state.archive is not None, "called when all verdicts are there"
    current, staged = folder / VERDICTS, folder / STAGED
    if staged.is_dir():
        if current.is_dir() and not shard_files(current):
            shutil.rmtree(current)  # verdicts were deferred: there is nothing to keep
        elif current.is_dir():
            os.rename(current, folder / state.archive)
        os.rename(staged, current)
        sync_folder(folder)


def _report(told: Stats, changes: Mapping[str, int]) -> Report:
    changed, drawn = _changed(changes), sum(changes.values())
    judges = ", ".join(f"judge {name} {count:,}" for name, count in told.judges.items())
    lines = [
        f"{told.traces:,} traces, {drawn:,} judged anew, {changed:,} verdicts changed; verdicts by {judges}",
        mix(told.verdicts, told.traces),
        *(f"{name}: {count:,}" for name, count in sorted(changes.items()) if len(set(name.split(BECAME))) > 1),
    ]
    counts: dict[str, int | float] = {"traces": told.traces, "judged": drawn, "changed": changed, **told.verdicts}
    return Report(counts=counts, lines=tuple(lines))


def _tell(folder: Path, told: Stats, report: Report, renew: Renew) -> None:
    """Into the manifest: the counts of the new verdicts, and that later steps have to read them."""
    manifest = read_manifest(folder)
    before, today = manifest.report, renew(manifest)
    gone = (*get_args(Status), UNJUDGED, "labels_agreed")
    counts = {key: value for key, value in before.counts.items() if key not in gone}
    table = {group.name: {"n": group.traces, "correct": group.verdicts.get("correct", 0)} for group in told.families}
    marks = before.marks | ({"yield": table} if "yield" in before.marks else {}) | {"judges": told.judges}
    update: dict[str, Any] = {
        "amended": hashlib.sha256((folder / VERDICTS / SUMS).read_bytes()).hexdigest()[:16],
        "report": before.model_copy(update={"counts": counts | told.verdicts, "lines": report.lines, "marks": marks}),
    }
    if today is not None:
        update |= {"stage_version": today[0], "fingerprint": today[1]}
    write_durably(folder / MANIFEST, manifest.model_copy(update=update).model_dump_json(indent=2))
