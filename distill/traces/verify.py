"""Verify: every byte of a run folder's ledgers looked at, every fault named as file:line.

Line by line the crc32 and the record's keys; shard by shard the SHA-256 it was sealed with;
over all of them ids that stand twice, verdicts on no trace and traces without a verdict. No
index is trusted: ids go into one on disk that is gone afterwards, so memory stays flat.

Damage is told from what a kill or a writer at work leaves: a torn tail of an open shard is cut
by the next writer, and an unfinished run still owes verdicts. What is not covered: whole lines
missing from the end of a shard that was never sealed leave no trace of themselves.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ConfigDict

from distill.errors import UserError
from distill.harvest import TRACES, VERDICTS
from distill.ledger import RESEALED, read_shard, shard_files
from distill.progress import Progress, Task
from distill.records import Record
from distill.runs import MANIFEST, read_manifest
from distill.traces.index import LINES, Fault, Index, bad_lines, check_ledger, fresh_index, read_seals


class Anything(Record):
    """A record of which only the checksum is looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Checked:
    """What was looked at, counted while `verify` goes on."""

    def __init__(self) -> None:
        self.shards = self.lines = self.traces = self.verdicts = self.bytes = 0
        self.damage = self.notes = 0

    @property
    def line(self) -> str:
        """The last line of a report."""
        said = f"{self.damage:,} faults" if self.damage else "no fault"
        owed = f", {self.notes:,} notes" if self.notes else ""
        return (
            f"{said}{owed}: {self.traces:,} traces, {self.verdicts:,} verdicts, {self.shards:,} shards, "
            f"{self.bytes:,} bytes"
        )


def verify(folder: Path, checked: Checked, progress: Progress) -> Iterator[Fault]:
    """Every fault of a run folder, as found; `checked` holds the counts when it is through.

    Raises UserError when the folder holds no traces.
    """
    check_ledger(folder)
    with fresh_index(folder) as index, progress.task(f"verify {folder}", unit="lines") as task:
        for fault in _all_faults(folder, index, task):
            checked.damage += fault.damage
            checked.notes += not fault.damage
            yield fault
        checked.lines += task.done
        checked.traces += index.one("SELECT count(*) FROM traces")
        checked.verdicts += index.one("SELECT count(*) FROM verdicts")
        shards = [shard for ledger in _ledgers(folder) for shard in shard_files(ledger)]
        checked.shards += len(shards)
        checked.bytes += sum(shard.stat().st_size for shard in shards)


def _all_faults(folder: Path, index: Index, task: Task) -> Iterator[Fault]:
    yield from index.refresh(task)
    yield from _doubles(index, TRACES, "trace")
    yield from _doubles(index, VERDICTS, "verdict on trace")
    for place, id_ in index.ask("SELECT place, id FROM verdicts WHERE id NOT IN (SELECT id FROM traces) ORDER BY 1"):
        yield _fault(folder / VERDICTS, place, f"a verdict on {id_}, and no such trace is stored")
    yield from _unjudged(folder, index)
    for ledger in _ledgers(folder):
        if ledger.name not in (TRACES, VERDICTS):
            yield from _bare(ledger, task)


def _doubles(index: Index, kind: str, what: str) -> Iterator[Fault]:
    """Every line but the first of an id."""
    firsts = f"SELECT id, min(place) AS first FROM {kind} GROUP BY id HAVING count(*) > 1"
    query = f"SELECT place, {kind}.id, first FROM {kind} JOIN ({firsts}) AS f ON f.id = {kind}.id AND place > first"
    folder = index.folder / kind
    for place, id_, first in index.ask(f"{query} ORDER BY place"):
        yield _fault(folder, place, f"{what} {id_} is at {_fault(folder, first, '').where} already")


def _unjudged(folder: Path, index: Index) -> Iterator[Fault]:
    """Traces without a verdict: each of them, or one note for all where the run still owes them."""
    owed, where = _owes(folder), "FROM traces WHERE id NOT IN (SELECT id FROM verdicts)"
    count = index.one(f"SELECT count(*) {where}")
    if owed and count:
        first = index.one(f"SELECT min(place) {where}")
        yield _fault(folder / TRACES, first, f"from here on {count:,} traces have no verdict: {owed}", damage=False)
        return
    for place, id_ in index.ask(f"SELECT place, id {where} ORDER BY place"):
        yield _fault(folder / TRACES, place, f"trace {id_} has no verdict")


def _owes(folder: Path) -> str:
    """Why traces may lack verdicts here; empty where none may."""
    if not (folder / MANIFEST).is_file():
        return "" if (folder.parent / MANIFEST).is_file() else "the run is not finished"
    try:
        deferred = bool(read_manifest(folder).config.get("defer_verdicts"))
    except UserError:  # a manifest of another version says nothing about it
        return ""
    return f"verdicts were deferred, distill judge {folder} draws them" if deferred else ""


def _fault(ledger: Path, place: int, why: str, *, damage: bool = True) -> Fault:
    return Fault(ledger / f"{place // LINES:04}.jsonl", place % LINES, why, damage=damage)


def _ledgers(folder: Path) -> list[Path]:
    """Folders of shards in a run folder: traces, verdicts, and others such as older verdicts or measures."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and shard_files(path))


def _bare(ledger: Path, task: Task) -> Iterator[Fault]:
    """Faults of a ledger whose records mean nothing here."""
    sums, faults = read_seals(ledger)
    yield from faults
    shards = shard_files(ledger)
    for shard in shards:
        digest, damaged, open_ = hashlib.sha256(), False, shard is shards[-1] and shard.name not in sums
        for line in read_shard(shard, Anything, digest):
            for fault in bad_lines(shard, [line], open_=open_):
                damaged |= fault.damage
                yield fault
            task.advance()
        if not damaged and sums.get(shard.name, digest.hexdigest()) != digest.hexdigest():
            yield Fault(shard, None, RESEALED)
