"""JSONL in and out: typed rows, every bad line named, files that are whole or absent."""

import codecs
import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from distill.errors import UserError
from distill.records import Record, reason

R = TypeVar("R", bound=Record)

MAX_BAD_LINES = 10_000
"""Bad lines spelled out in one error; the rest are counted. A terminal shows fewer (cli/main.py)."""


def read_jsonl(path: Path, record: type[R]) -> list[R]:
    """All rows of a file. Raises UserError naming every bad line as file:line with its reason."""
    return list(iter_jsonl(path, record))


def iter_jsonl(path: Path, record: type[R]) -> Iterator[R]:
    """Rows one by one, from plain or `.gz` files; a bad line is reported at the end, it does not stop the reading."""
    return (row for _, row in iter_placed(path, record))


def iter_placed(path: Path, record: type[R]) -> Iterator[tuple[int, R]]:
    """The same, each with the byte its line begins at (of the unzipped text), for `PlacedLines`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file (expected JSONL of {record.__name__})")
    bad: list[str] = []
    offset = 0
    for number, line in enumerate(lines(path), 1):
        begin, offset = offset, offset + len(line)
        line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield begin, record.model_validate_json(line)
        except ValidationError as error:
            bad.append(f"{path}:{number}: {reason(error)}")
    if bad:
        more = f"\n... and {len(bad) - MAX_BAD_LINES} more bad lines" if len(bad) > MAX_BAD_LINES else ""
        raise UserError("\n".join(bad[:MAX_BAD_LINES]) + more)


class PlacedLines(Generic[R]):
    """Rows of a file by the places `iter_placed` gave them. Going back in a `.gz` file unzips it again."""

    def __init__(self, path: Path, record: type[R]) -> None:
        self.record = record
        self._file = gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb")

    def read(self, offset: int) -> R:
        """The row whose line begins at this byte."""
        self._file.seek(offset)
        return self.record.model_validate_json(self._file.readline().removeprefix(codecs.BOM_UTF8))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def lines(path: Path) -> Iterator[bytes]:
    """Lines of a plain or `.gz` file. Raises UserError when the latter is cut or damaged."""
    if path.suffix != ".gz":
        with path.open("rb") as plain:
            yield from plain
        return
    try:
        with gzip.open(path, "rb") as unzipped:
            yield from unzipped
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error})") from error


def write_jsonl(path: Path, rows: Iterable[Record]) -> int:
    """Write rows to `path` atomically and durably; returns how many."""
    count = 0
    with writing_jsonl(path) as write:
        for count, row in enumerate(rows, 1):  # noqa: B007
            write(row)
    return count


@contextmanager
def writing_jsonl(path: Path) -> Iterator[Callable[[Record], None]]:
    """Rows one by one into `path`, which appears, whole and durable, when the block is left without an error."""
    staged = path.with_name(path.name + ".tmp")
    with staged.open("w", encoding="utf-8") as file:
        yield lambda row: print(row.to_json(), file=file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)
