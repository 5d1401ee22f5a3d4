"""Loading: files of benchmarks, as a user has them, become problems.

From one directory (`--data`, `DISTILL_DATA` or `data/`): JSONL, plain or gzipped, and for the few that are published
so, CSV or TSV; docs/real-input.md gives the columns and the licenses. Nothing is downloaded.
"""

import csv
import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.errors import UserError, did_you_mean
from distill.jsonl import read_jsonl
from distill.problems.benchmarks.benchmark import Benchmark, Row, Split
from distill.problems.benchmarks.recorded import TracedRow
from distill.problems.benchmarks.table import BENCHMARKS
from distill.records import Problem, reason


def load_benchmark(name: str, split: str, data_dir: Path, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of one split, in file order.

    Raises UserError when the file is missing, a line is malformed (every one is named) or an
    id occurs twice.
    """
    if limit is not None and limit < 1:
        raise UserError(f"benchmark {name}: limit: expected a whole number from 1, got {limit}")
    benchmark, wanted = _find(name, split)
    path, *others = benchmark_files(name, split, data_dir)
    made = (benchmark.problem(name, wanted, row) for row in benchmark_rows(name, split, data_dir))
    problems = [problem for problem in made if problem is not None]
    if others:
        traced = {row.problem_id for row in read_jsonl(others[0], TracedRow)}
        problems = [problem for problem in problems if problem.id in traced]
    if benchmark.recorded:
        first: dict[str, Problem] = {}
        for problem in problems:
            first.setdefault(problem.id, problem)
        problems = list(first.values())
    _refuse_twins(path, problems)
    if not problems:
        raise UserError(f"{path}: no {split} problem in it")
    return problems[:limit]


def benchmark_rows(name: str, split: str, data_dir: Path) -> list[Any]:
    """The rows of the split's file as they stand, those of other splits in it included; UserError as above."""
    benchmark, _ = _find(name, split)
    path = benchmark_files(name, split, data_dir)[0]
    if path.name.removesuffix(".gz").endswith((".csv", ".tsv")):
        return list(_table_rows(path, benchmark))
    return list(read_jsonl(path, benchmark.row))


def benchmark_files(name: str, split: str, data_dir: Path) -> list[Path]:
    """The files `load_benchmark` would read, for fingerprints; UserError when one is missing."""
    benchmark, wanted = _find(name, split)
    names = [benchmark.files[wanted], *([benchmark.only] if benchmark.only else [])]
    return [data_file(data_dir, file) for file in names]


def data_file(data_dir: Path, name: str) -> Path:
    """`name` or `name.gz` in the data directory; UserError saying how to point at it."""
    for path in (data_dir / name, data_dir / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(
        f"{data_dir / name}: no such file, nor {name}.gz beside it; "
        "pass --data or set DISTILL_DATA to the directory of benchmark files (docs/real-input.md)"
    )


def _table_rows(path: Path, benchmark: Benchmark) -> Iterator[Row]:
    """Rows of a table, its head being the first line unless the benchmark names the columns; `line` is the row's own.

    What is malformed is named in one error.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    broken: list[str] = []
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        table = csv.DictReader(
            file,
            fieldnames=benchmark.columns,
            delimiter="\t" if ".tsv" in path.name else ",",
            quoting=csv.QUOTE_NONE if benchmark.columns else csv.QUOTE_MINIMAL,
        )
        for number, cells in enumerate(table, 1):
            try:
                yield benchmark.row.model_validate({"line": number, **cells})
            except ValidationError as error:
                broken.append(f"{path}: row {number}: {reason(error)}")
    if broken:
        raise UserError("\n".join(broken))


def _find(name: str, split: str) -> tuple[Benchmark, Split]:
    if name not in BENCHMARKS:
        raise UserError(
            f"benchmark {name!r}: unknown{did_you_mean(name, BENCHMARKS)}; there are {', '.join(sorted(BENCHMARKS))}"
        )
    benchmark = BENCHMARKS[name]
    for known in benchmark.files:
        if known == split:
            return benchmark, known
    raise UserError(f"benchmark {name}: no split {split!r}; there is {', '.join(benchmark.files)}")


def _refuse_twins(path: Path, problems: Sequence[Problem]) -> None:
    twins = [id for id, count in Counter(problem.id for problem in problems).items() if count > 1]
    if twins:
        more = f" (and {len(twins) - 1} other ids)" if len(twins) > 1 else ""
        raise UserError(f"{path}: id {twins[0]!r} occurs twice{more}; expected one row a problem")
