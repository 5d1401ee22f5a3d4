"""The ledger: append-only JSONL shards that survive kill -9, a full disk and a second writer.

A line is a record with its checksum in front: `{"crc":"1c291ca3","id":...}`, the crc32 of
the record's own JSON. A batch is one write and one fdatasync; what was synced is
acknowledged and never written again. A shard that is full, or complete, is sealed: its
SHA-256 goes into `SHA256SUMS`, which `sha256sum -c` understands. A tail torn by a kill is
cut when the next writer opens the ledger. The rules are those of any write-ahead log (see
SQLite's "Atomic Commit"); the single record a line is what keeps it readable by eye, by
`jq` and by `datasets`.

What is not covered: a disk that acknowledges and then loses bytes. Such damage is found
and named, never repaired.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import shutil
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, Self, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from distill.errors import UserError
from distill.jsonl import MAX_BAD_LINES
from distill.records import Message, Params, Record, SamplerId, fingerprint, reason
from distill.runs import write_durably

R = TypeVar("R", bound=Record)

SUMS = "SHA256SUMS"
HOLDER = ".writer"
BATCH = 128
"""Records in one write. Past 32 a batch gains little and a power cut loses more: docs/ledger.md."""
BATCH_SECONDS = 1.0
SHARD_BYTES = 64 << 20

TORN = "cut short (no line end); the next writer of this ledger cuts it"
LOST = "sealed but missing"
RESEALED = f"lines are missing or added, its SHA-256 is not the one in {SUMS}"

_HEAD, _CRC, _NEXT = b'{"crc":"', 8, b'",'


class Ledger:
    """The one writer of a folder of shards. A second one is refused, naming the first.

    Records wait in memory until the batch is full, or until one arrives a second or more
    after the last write; leaving the `with` block writes what is left. Left normally, the
    last shard is sealed; left by an exception, it stays open for whoever resumes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batch: int = BATCH,
        shard_bytes: int = SHARD_BYTES,
        after: "Ledger | None" = None,
    ) -> None:
        """`after` is a ledger whose records these refer to: it is always written first."""
        self.folder, self.batch, self.shard_bytes, self.after = folder, batch, shard_bytes, after
        folder.mkdir(parents=True, exist_ok=True)
        self._holder = _hold(folder)
        self._lock = threading.RLock()
        self._lines: list[bytes] = []
        self._number, self._size, self._digest = 0, 0, hashlib.sha256()
        self._written = time.monotonic()
        self._failed = False
        self._file: int | None = None
        self.cut = 0
        """Bytes of a torn tail removed on opening."""
        self.acknowledged = 0
        """Records this writer has on disk."""
        try:
            self._open_last()
        except BaseException:
            os.close(self._holder)
            raise

    def append(self, record: R) -> R:
        """Take a record; returns it as it is stored, lone surrogates replaced."""
        return self.extend([record])[0]

    def extend(self, records: Sequence[R]) -> list[R]:
        """Take records that belong together: no write falls between them."""
        pairs = [_line(record) for record in records]
        with self._lock:
            self._lines += [line for _, line in pairs]
            if len(self._lines) >= self.batch or time.monotonic() - self._written >= BATCH_SECONDS:
                self.flush()
        return [stored for stored, _ in pairs]

    def flush(self) -> None:
        """Write and fdatasync what waits: after this returns it is acknowledged.

        Raises UserError when the disk is full; the shard is then cut back to whole records
        and the waiting ones still wait.
        """
        with self._lock:
            if self.after is not None:
                self.after.flush()
            if not self._lines:
                return
            block = b"".join(self._lines)
            try:
                self._write(block)
            except OSError as error:
                self._failed = True
                if self._file is not None:
                    os.ftruncate(self._file, self._size)
                raise UserError(self._no_room(error, len(block))) from error
            digest = self._digest.copy()
            digest.update(block)
            waiting: list[bytes] = []
            size, acknowledged = self._size + len(block), self.acknowledged + len(self._lines)
            # No call in here: Ctrl-C cannot fall between these and write a record twice.
            self._lines, self._size, self._digest, self.acknowledged = waiting, size, digest, acknowledged
            self._failed, self._written = False, time.monotonic()
            if self._size >= self.shard_bytes:
                self._seal()

    def close(self, *, complete: bool = True) -> None:
        """Write what waits, seal the last shard when the ledger is complete, let go."""
        try:
            if not self._failed:
                self.flush()
                if complete and self._size:
                    self._seal()
        finally:
            if self._file is not None:
                os.close(self._file)
                self._file = None
            os.close(self._holder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)

    def _open_last(self) -> None:
        shards = shard_files(self.folder)
        self._number = len(shards)
        if not shards or shards[-1].name in seals(self.folder):
            return
        self._number -= 1
        self._file = os.open(shards[-1], os.O_RDWR)
        with shards[-1].open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self._size += len(line)
                    self._digest.update(line)
                else:
                    self.cut = len(line)
        if self.cut:
            os.ftruncate(self._file, self._size)
            os.fdatasync(self._file)

    def _write(self, block: bytes) -> None:
        """At a known offset, so that an interrupted write is simply written over."""
        if self._file is None:
            path = self.folder / f"{self._number:04}.jsonl"
            write_durably(path, "")
            self._file = os.open(path, os.O_RDWR)
        done = 0
        while done < len(block):
            done += os.pwrite(self._file, memoryview(block)[done:], self._size + done)
        os.fdatasync(self._file)

    def _seal(self) -> None:
        """Record the shard's SHA-256; the next record starts another shard."""
        sums = seals(self.folder)
        sums[f"{self._number:04}.jsonl"] = self._digest.hexdigest()
        text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        try:
            write_durably(self.folder / SUMS, text)
        except OSError as error:
            raise UserError(self._no_room(error, len(text))) from error
        if self._file is not None:
            os.close(self._file)
        self._file, self._number, self._size, self._digest = None, self._number + 1, 0, hashlib.sha256()

    def _no_room(self, error: OSError, needed: int) -> str:
        free = shutil.disk_usage(self.folder).free
        mend = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend the disk"
        return (
            f"{self.folder}: {error.strerror} ({free:,} bytes free, {needed:,} needed); "
            f"everything acknowledged is whole: {mend} and run the same command again"
        )


def read_ledger(folder: Path, record: type[R], *, torn: bool = False) -> Iterator[R]:
    """All records, oldest first, one by one.

    A bad line does not stop the reading; at the end UserError names each as file:line with
    its reason, and every sealed shard that is missing or not the bytes that were sealed. With `torn`
    a half line at the end, which the next writer cuts, is no bad one.
    """
    return (found for _, _, found in read_placed(folder, record, torn=torn))


def read_placed(folder: Path, record: type[R], *, torn: bool = False) -> Iterator[tuple[int, int, R]]:
    """All records with their places: number of the shard, byte at which the line begins, record.

    `record` may name fewer keys than were stored when it ignores the others. Bad lines as in `read_ledger`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (expected shards of {record.__name__}, 0000.jsonl and on)")
    sums = seals(folder)
    shards = shard_files(folder)
    bad = [f"{folder / name}: {LOST}" for name in sorted(sums.keys() - {shard.name for shard in shards})]
    for shard in shards:
        digest, bad_before = hashlib.sha256(), len(bad)
        for line in read_shard(shard, record, digest):
            if line.record is None:
                if not (torn and line.why == TORN and shard is shards[-1] and shard.name not in sums):
                    bad.append(f"{shard}:{line.number}: {line.why}")
            else:
                yield int(shard.stem), line.offset, line.record
        if shard.name in sums and digest.hexdigest() != sums[shard.name] and len(bad) == bad_before:
            bad.append(f"{shard}: {RESEALED}")
    if bad:
        more = f"\n... and {len(bad) - MAX_BAD_LINES} more" if len(bad) > MAX_BAD_LINES else ""
        raise UserError("\n".join(bad[:MAX_BAD_LINES]) + more)


@dataclass(frozen=True, slots=True)
class Line(Generic[R]):
    """One line of a shard: a record, or why it is none."""

    number: int
    """1 for the first."""
    offset: int
    """Byte it begins at."""
    record: R | None
    why: str = ""


def read_shard(path: Path, record: type[R], digest: "hashlib._Hash") -> Iterator[Line[R]]:
    """Every line of one shard, good or bad; `digest` has seen all of its bytes when the last one is out."""
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            digest.update(line)
            try:
                yield Line(number, offset, record.model_validate_json(_payload(line)))
            except ValidationError as error:
                yield Line(number, offset, None, reason(error))
            except ValueError as error:
                yield Line(number, offset, None, str(error))
            offset += len(line)


class Places(Generic[R]):
    """Records of a finished ledger by the places `read_placed` gave them; one shard is open at a time."""

    def __init__(self, folder: Path, record: type[R]) -> None:
        self.folder, self.record = folder, record
        self._shard = -1
        self._file: BinaryIO | None = None

    def read(self, shard: int, offset: int) -> R:
        """The record at a place, its checksum verified. Raises UserError when none stands there whole."""
        path = self.folder / f"{shard:04}.jsonl"
        if self._file is None or shard != self._shard:
            self.close()
            self._file, self._shard = path.open("rb"), shard
        self._file.seek(offset)
        try:
            return self.record.model_validate_json(_payload(self._file.readline()))
        except ValueError as error:
            why = reason(error) if isinstance(error, ValidationError) else str(error)
            raise UserError(f"{path}: byte {offset}: {why}; was the ledger changed while it was read?") from error

    def close(self) -> None:
        """Let go of the open shard; reading opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def count_records(folder: Path) -> int:
    """How many lines the shards of a folder have; nothing is checked."""
    count = 0
    for shard in shard_files(folder):
        with shard.open("rb") as lines:
            count += sum(1 for _ in lines)
    return count


def trace_id(
    problem_id: str,
    messages: Sequence[Message],
    *,
    sampler: SamplerId,
    template: str,
    params: Params | None,
    seed: int,
    sample_index: int,
    round: int = 0,
    parent: str | None = None,
) -> str:
    """The name of one sample before it is drawn: what was asked, of whom, how, and which draw.

    Where the sampler ran is no part of it: moving to another machine must not pay twice.
    """
    asked = [problem_id, list(messages), sampler, template, params, seed, round, sample_index, parent]
    return fingerprint(asked)


def _hold(folder: Path) -> int:
    """Lock the folder for this process. The kernel lets go of it however the process ends."""
    holder = os.open(folder / HOLDER, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        name = os.read(holder, 200).decode(errors="replace") or "another process"
        os.close(holder)
        raise UserError(f"{folder}: being written by {name}; wait for it or choose another --out") from error
    os.ftruncate(holder, 0)
    with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, only its name is missing
        os.write(holder, f"process {os.getpid()} on {platform.node()}".encode())
    return holder


def shard_files(folder: Path) -> list[Path]:
    """The shards of a folder, oldest first."""
    return sorted(folder.glob("[0-9][0-9][0-9][0-9].jsonl"))


def seals(folder: Path) -> dict[str, str]:
    """SHA-256 by name of every sealed shard. Raises UserError naming a line that is no seal."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    sums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        digest, gap, name = line.partition("  ")
        if not gap or len(digest) != 64:
            raise UserError(f"{path}:{number}: expected '<SHA-256>  <file>', got {line[:80]!r}")
        sums[name] = digest
    return sums


def _line(record: R) -> tuple[R, bytes]:
    try:
        payload = record.to_json().encode()
    except PydanticSerializationError:
        record = type(record).model_validate(well_formed(record.model_dump()))
        payload = record.to_json().encode()
    return record, _HEAD + b"%08x" % zlib.crc32(payload) + _NEXT + payload[1:] + b"\n"


def _payload(line: bytes) -> bytes:
    """The record's JSON out of a line. Raises ValueError saying what is wrong with the line."""
    if not line.endswith(b"\n"):
        raise ValueError(TORN)
    start = len(_HEAD) + _CRC + len(_NEXT)
    head, crc, gap = line[: len(_HEAD)], line[len(_HEAD) : start - len(_NEXT)], line[start - len(_NEXT) : start]
    if head != _HEAD or gap != _NEXT:
        raise ValueError(f"not a ledger line, expected {_HEAD.decode()}...")
    payload = b"{" + line[start:-1]
    if b"%08x" % zlib.crc32(payload) != crc:
        raise ValueError("checksum does not match: the line was changed after it was written")
    return payload


def well_formed(value: Any) -> Any:
    """A copy in which every lone surrogate is U+FFFD: half a character cannot be stored as UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {well_formed(key): well_formed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [well_formed(item) for item in value]
    return value
