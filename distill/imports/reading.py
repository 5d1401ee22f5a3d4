"""Reading: rows of foreign files one by one, each under the name of its place.

JSONL plain or gzipped, arrays of JSON, parquet by row groups, and whatever `datasets` loads
from a folder or the hub. Nothing is held but one row, or one batch of a row group. A row
that cannot be read is handed on with the reason; only a file that is no file of its kind
stops the reading.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distill.errors import UserError, shown
from distill.imports.config import ImportConfig
from distill.jsonl import lines
from distill.ledger import well_formed
from distill.problems.benchmarks import data_file
from distill.strict_json import STRICT, parse_json

KINDS = (".jsonl", ".jsonl.gz", ".json", ".parquet")
"""Endings of files that are read, and looked for in folders."""
BATCH = 64
"""Parquet rows turned into Python at once."""
CHUNK = 1 << 20
"""Characters of a JSON array, or bytes of a parquet column, read at once: a row group may be larger than memory."""


@dataclass(frozen=True, slots=True)
class Raw:
    """One row as it stands, or the reason why it cannot be read."""

    where: str
    """`file:line`, or `file:row` where there are no lines; from 1."""
    row: dict[str, Any]
    why: str = ""
    halved: bool = False
    """It held half characters (lone surrogates), which are now U+FFFD."""


def find_files(config: ImportConfig, data: Path) -> list[Path]:
    """All files an import reads, in order, folders opened. Raises UserError for one that is missing."""
    found: list[Path] = []
    for name in config.places:
        path = Path(name) if "/" in name else data_file(data, name)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(KINDS))
            if not inside:
                raise UserError(f"{path}: no file in it ends in {', '.join(KINDS)}")
            found += inside
        elif not path.is_file():
            raise UserError(f"{path}: no such file or folder")
        elif not path.name.endswith(KINDS):
            raise UserError(f"{path}: expected a file that ends in {', '.join(KINDS)}")
        else:
            found.append(path)
    return found


def read_rows(config: ImportConfig, files: Sequence[Path]) -> Iterator[Raw]:
    """Every row of `files`, or of the dataset the config names, up to its limit."""
    rows = _dataset(config) if config.dataset is not None else (raw for path in files for raw in _file(path))
    return islice(rows, config.limit)


def count_rows(config: ImportConfig, files: Sequence[Path]) -> int | None:
    """How many rows there are, roughly: empty lines count. None where only reading tells."""
    if config.dataset is not None or any(path.suffix == ".json" for path in files):
        return None
    total = 0
    for path in files:
        if path.suffix == ".parquet":
            with _parquet(path) as table:
                total += table.metadata.num_rows
        else:
            total += sum(1 for _ in lines(path))
    return total if config.limit is None else min(total, config.limit)


def _file(path: Path) -> Iterator[Raw]:
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix == ".json":
        with path.open("rb") as file:
            if file.read(CHUNK).lstrip().startswith(b"["):
                return _array(path)
    return _jsonl(path)


def _jsonl(path: Path) -> Iterator[Raw]:
    for number, line in enumerate(lines(path), 1):
        where = f"{path}:{number}"
        line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            row = parse_json(line, where)
        except UserError as error:
            yield Raw(where, {}, str(error).removeprefix(f"{where}: "))
            continue
        yield _raw(where, row, halved=b"\\ud" in line.lower())


def _array(path: Path) -> Iterator[Raw]:
    """The members of an array, read piece by piece."""
    with path.open(encoding="utf-8-sig") as file:
        text, place, number = file.read(CHUNK).lstrip()[1:], 0, 0
        while True:
            place = _skipped(text, place)
            if text.startswith("]", place):
                if (text[place + 1 :] + file.read(CHUNK)).strip():
                    raise UserError(f"{path}: something stands behind the array, after item {number}")
                return
            try:
                row, place = STRICT.raw_decode(text, place)
            except json.JSONDecodeError as error:  # perhaps it only goes on in the next piece
                more = file.read(max(CHUNK, len(text)))
                if not more:
                    raise UserError(f"{path}: item {number + 1}: not a whole JSON array ({error})") from error
                text, place = text[place:] + more, 0
                continue
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}: item {number + 1}: not JSON that can be read ({error})") from error
            number += 1
            yield _raw(f"{path}:{number}", row, halved=True)


def _skipped(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n,":
        place += 1
    return place


def _parquet_rows(path: Path) -> Iterator[Raw]:
    import pyarrow as pa

    number = 0
    with _parquet(path) as table:
        try:
            for batch in table.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield Raw(f"{path}:{number}", row)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: row {number + 1} or later: not readable ({shown(str(error))})") from error


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a parquet file ({shown(str(error))})") from error


def local_dataset(config: ImportConfig) -> Path | None:
    """The folder behind `dataset`; None for a hub id, which must name its revision."""
    folder = Path(str(config.dataset))
    if folder.exists():
        return folder
    if config.dataset_revision is None:
        raise UserError(
            f"dataset {config.dataset!r}: no such folder; for a hub id, dataset_revision must name the commit"
        )
    return None


def _dataset(config: ImportConfig) -> Iterator[Raw]:
    import datasets

    name, folder = str(config.dataset), local_dataset(config)
    try:
        if folder is not None and any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(str(folder))
            rows = loaded[config.dataset_split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            rows = datasets.load_dataset(
                name,
                config.dataset_config,
                split=config.dataset_split,
                revision=None if folder is not None else config.dataset_revision,
                streaming=True,
            )
        for number, row in enumerate(rows, 1):
            yield Raw(f"{name}:{number}", dict(row))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        why = shown(" ".join(str(error).split()))
        raise UserError(f"dataset {name!r}, split {config.dataset_split!r}: not loaded ({why})") from error


def _raw(where: str, row: Any, *, halved: bool) -> Raw:
    if not isinstance(row, dict):
        return Raw(where, {}, f"expected an object, got {type(row).__name__}")
    mended = well_formed(row) if halved else row
    return Raw(where, mended, halved=mended != row)
