"""Index: where every trace and verdict of a run folder stands, so that one is found without reading all.

A cache and nothing more. `.index.sqlite` may be deleted at any time and is made again; a shard
whose size, time of change or seal is not the noted one is read anew, and whoever reads a record
by its place has its checksum and its id checked against the shard. A writer may be at work
meanwhile: the half line at the end of its open shard is not there yet.

What is not covered: a shard changed to the same size under a forged time of change is found out
when one of its records is read, or by `verify`, which trusts no index.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from distill.content import INDEX
from distill.errors import UserError
from distill.harvest import TRACES, VERDICTS
from distill.ledger import LOST, RESEALED, SUMS, TORN, Line, Places, read_shard, seals, shard_files
from distill.progress import Progress, Task
from distill.records import Finish, Record, SamplerId, Status, Trace, Verdict

LAYOUT = 2
"""Raised when the tables change; an index of another layout is made again."""
LINES = 1 << 32
"""Lines a shard may have: a place is shard * LINES + line, so that places sort as records were written."""
BATCH = 1000
PATIENCE = 60.0
"""Seconds to wait for another process that is reading the same shards into the index."""

TABLES = """
CREATE TABLE shards (kind TEXT, number INTEGER, size INTEGER, changed INTEGER, sha TEXT, faults INTEGER,
  PRIMARY KEY (kind, number));
CREATE TABLE traces (place INTEGER PRIMARY KEY, offset INTEGER, id TEXT, problem TEXT, sampler TEXT, revision TEXT,
  round INTEGER, sample INTEGER, parent TEXT, finish TEXT, thought INTEGER, prompt_tokens INTEGER, tokens INTEGER,
  together INTEGER);
CREATE INDEX traces_id ON traces (id);
CREATE INDEX traces_problem ON traces (problem);
CREATE TABLE verdicts (place INTEGER PRIMARY KEY, offset INTEGER, id TEXT, status TEXT, judge TEXT, seconds REAL);
CREATE INDEX verdicts_id ON verdicts (id);
CREATE VIEW ruled AS SELECT traces.*, verdicts.status, verdicts.judge, verdicts.place AS verdict_place,
  verdicts.offset AS verdict_offset FROM traces LEFT JOIN verdicts ON verdicts.place =
  (SELECT max(newest.place) FROM verdicts AS newest WHERE newest.id = traces.id);
"""


Rower = Callable[[Any], tuple[Any, ...]]
"""A record as its columns; of None, as many."""


class Spoken(Record):
    """The part of a `Trace` the index keeps; how long the thought is, is not."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    id: str
    problem_id: str
    sampler: SamplerId
    round: int = 0
    sample_index: int
    parent: str | None = None
    reasoning: str | None = None
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    together: int | None = None


class Ruling(Record):
    """The part of a `Verdict` the index keeps."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    trace_id: str
    judge_version: str
    status: Status
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something of a ledger that is not as it was written."""

    path: Path
    line: int | None
    """None when it is the whole file, or the file is not there."""
    why: str
    damage: bool = True
    """False for what a kill or a writer at work leaves, and the next writer mends."""

    @property
    def where(self) -> str:
        """`file:line`, or the file."""
        return str(self.path) if self.line is None else f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Found:
    """Where one trace stands, and what the newest verdict on it says."""

    id: str
    problem_id: str
    sampler: str
    round: int
    sample_index: int
    tokens: int
    status: str | None
    """None when it has no verdict."""
    place: tuple[int, int]
    """Shard and byte, for `Places`."""
    verdict_place: tuple[int, int] | None


FOUND = "id, problem, sampler, round, sample, tokens, status, place, offset, verdict_place, verdict_offset"


class Index:
    """The traces and verdicts of one run folder, as rows that SQL can ask."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, kinds: Iterable[tuple[str, type, Rower]]) -> None:
        self.folder, self.connection, self._kinds = folder, connection, tuple(kinds)

    def ask(self, query: str, values: Iterable[object] = ()) -> Iterator[Any]:
        """Rows of a query over `traces`, `verdicts`, `ruled` and `shards`."""
        return self.connection.execute(query, tuple(values))

    def one(self, query: str, values: Iterable[object] = ()) -> Any:
        """The first value of the first row."""
        return next(self.ask(query, values))[0]

    def find(self, name: str) -> list[Found]:
        """The trace of this id, or those that answer this problem, or those whose id begins so."""
        for where, values in (
            ("id = ?", (name,)),
            ("problem = ?", (name,)),
            ("id >= ? AND id < ?", (name, name + "\U0010ffff")),
        ):
            rows = self.ask(f"SELECT {FOUND} FROM ruled WHERE {where} ORDER BY round, sample, place", values)
            if found := [_found(row) for row in rows]:
                return found
        return []

    def read(self, found: Found) -> tuple[Trace, Verdict | None]:
        """Trace and verdict from their shards. Raises UserError when they are not what the index says."""
        traces, verdicts = Places(self.folder / TRACES, Trace), Places(self.folder / VERDICTS, Verdict)
        try:
            trace = traces.read(*found.place)
            verdict = None if found.verdict_place is None else verdicts.read(*found.verdict_place)
        finally:
            traces.close()
            verdicts.close()
        if trace.id != found.id or (verdict is not None and verdict.trace_id != found.id):
            raise UserError(f"{self.folder / INDEX}: holds another place of {found.id}; delete it, it is made again")
        return trace, verdict

    def refresh(self, task: Task) -> Iterator[Fault]:
        """Read every shard that is not as noted; yields what is wrong with those."""
        for kind, record, row in self._kinds:
            yield from self._refresh_kind(kind, record, row, task)

    def _refresh_kind(self, kind: str, record: type[Record], row: Rower, task: Task) -> Iterator[Fault]:
        folder = self.folder / kind
        shards = {int(shard.stem): shard for shard in shard_files(folder)}
        sums, faults = read_seals(folder)
        yield from faults
        for gap in sorted(set(range(max(shards, default=-1))) - shards.keys()):
            if f"{gap:04}.jsonl" not in sums:
                yield Fault(folder / f"{gap:04}.jsonl", None, "missing between others")
        query = "SELECT number, size, changed, sha FROM shards WHERE kind = ?"
        noted = {number: (size, changed, sha) for number, size, changed, sha in self.ask(query, (kind,))}
        for gone in noted.keys() - shards.keys():
            self._forget(kind, gone)
            self.connection.commit()
        for number, shard in shards.items():
            state, known = shard.stat(), noted.get(number, (-1, -1, ""))
            if known[:2] != (state.st_size, state.st_mtime_ns) or sums.get(shard.name, known[2]) != known[2]:
                last = number == max(shards)
                yield from self._refresh_shard(kind, shard, record, row, sums.get(shard.name), last, task)

    def _refresh_shard(
        self, kind: str, shard: Path, record: type[Record], row: Rower, seal: str | None, last: bool, task: Task
    ) -> Iterator[Fault]:
        number, state = int(shard.stem), shard.stat()
        self._forget(kind, number)
        digest, faults = hashlib.sha256(), 0
        places = f"INSERT INTO {kind} VALUES ({', '.join('?' * (2 + len(row(None))))})"
        lines = iter(read_shard(shard, record, digest))
        while batch := list(islice(lines, BATCH)):
            good = [line for line in batch if line.record is not None]
            rows = ((number * LINES + line.number, line.offset, *row(line.record)) for line in good)
            self.connection.executemany(places, rows)
            task.advance(len(batch))
            for fault in bad_lines(shard, batch, open_=last and seal is None):
                faults += fault.damage
                yield fault
        sha = digest.hexdigest()
        if not faults and seal not in (None, sha):
            faults = 1
            yield Fault(shard, None, RESEALED)
        row_of_shard = (kind, number, state.st_size, state.st_mtime_ns, sha, faults)
        self.connection.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?)", row_of_shard)
        self.connection.commit()

    def _forget(self, kind: str, number: int) -> None:
        self.connection.execute("DELETE FROM shards WHERE kind = ? AND number = ?", (kind, number))
        between = (number * LINES, (number + 1) * LINES)
        self.connection.execute(f"DELETE FROM {kind} WHERE place >= ? AND place < ?", between)


def read_seals(folder: Path) -> tuple[dict[str, str], list[Fault]]:
    """The seals of a folder of shards, and what is wrong with them: a line that is none, a shard that is gone."""
    try:
        sums = seals(folder)
    except UserError as error:
        number, _, why = str(error).removeprefix(f"{folder / SUMS}:").partition(": ")
        return {}, [Fault(folder / SUMS, int(number), why)]
    there = {shard.name for shard in shard_files(folder)}
    return sums, [Fault(folder / name, None, LOST) for name in sorted(sums.keys() - there)]


def bad_lines(shard: Path, lines: Iterable[Line[Any]], *, open_: bool) -> Iterator[Fault]:
    """What is wrong with lines of a shard; in an open one a half line at the end is no damage."""
    for line in lines:
        if line.record is None:
            yield Fault(shard, line.number, line.why, damage=not (open_ and line.why == TORN))


def _trace_row(trace: "Spoken | Trace | None") -> tuple[Any, ...]:
    if trace is None:
        return (None,) * 12
    return (
        trace.id,
        trace.problem_id,
        trace.sampler.name,
        trace.sampler.revision,
        trace.round,
        trace.sample_index,
        trace.parent,
        trace.finish,
        trace.reasoning is not None,
        trace.prompt_tokens,
        trace.completion_tokens,
        trace.together or 1,
    )


def _verdict_row(verdict: "Ruling | Verdict | None") -> tuple[Any, ...]:
    if verdict is None:
        return (None,) * 4
    return verdict.trace_id, verdict.status, verdict.judge_version, verdict.seconds


LIGHT: tuple[tuple[str, type, Rower], ...] = ((TRACES, Spoken, _trace_row), (VERDICTS, Ruling, _verdict_row))
WHOLE: tuple[tuple[str, type, Rower], ...] = ((TRACES, Trace, _trace_row), (VERDICTS, Verdict, _verdict_row))


def _found(row: Any) -> Found:
    id_, problem, sampler, round_, sample, tokens, status, place, offset, verdict_place, verdict_offset = row
    verdict = None if verdict_place is None else (verdict_place // LINES, verdict_offset)
    return Found(id_, problem, sampler, round_, sample, tokens, status, (place // LINES, offset), verdict)


@contextmanager
def open_index(folder: Path, progress: Progress) -> Iterator[Index]:
    """The index of a run folder, in step with its shards. Raises UserError when there are none."""
    check_ledger(folder)
    file = folder / INDEX
    try:
        with _connected(file) as connection:
            index = Index(folder, connection, LIGHT)
            with progress.task(f"index of {folder}", unit="lines") as task:
                for _ in index.refresh(task):
                    pass  # told by `verify`; the count of each shard is noted
            yield index
    except sqlite3.DatabaseError as error:
        raise UserError(f"{file}: {error}; it is a cache: delete it and run the same command again") from error


@contextmanager
def fresh_index(folder: Path) -> Iterator[Index]:
    """An empty index on disk that is gone when the block ends; records are read whole."""
    connection = sqlite3.connect("")
    try:
        connection.executescript(TABLES)
        yield Index(folder, connection, WHOLE)
    finally:
        connection.close()


def check_ledger(folder: Path) -> None:
    """Raise UserError when a folder is no run folder with traces."""
    if not (folder / TRACES).is_dir():
        what = "no such folder" if not folder.is_dir() else f"no {TRACES}/ in it"
        raise UserError(f"{folder}: {what}; expected a run folder of harvest, import or bench (distill traces ls)")


@contextmanager
def _connected(file: Path) -> Iterator[sqlite3.Connection]:
    """The index file, made anew when it is of another layout or no index at all."""
    try:
        connection = _open(file)
        if connection.execute("PRAGMA user_version").fetchone()[0] != LAYOUT:
            connection.close()
            connection = _anew(file)
    except sqlite3.OperationalError as error:  # locked, or a folder that may not be written
        raise UserError(f"{file}: {error}; the index stands beside the shards and has to be written there") from error
    except sqlite3.DatabaseError:
        connection = _anew(file)
    try:
        yield connection
    finally:
        connection.close()


def _open(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=PATIENCE)
    connection.execute("PRAGMA synchronous = OFF")  # a cache: what a power cut spoils is made again
    return connection


def _anew(file: Path) -> sqlite3.Connection:
    for path in (file, file.with_name(file.name + "-journal")):
        path.unlink(missing_ok=True)
    connection = _open(file)
    connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;")
    return connection
