"""Held out: which problems a training set must not touch.

The test-split problems of run folders and files, or of every benchmark the toolkit scores, read from the data folder.
Does not compare anything (`decontaminate`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.errors import UserError, did_you_mean
from distill.problems.benchmarks import BENCHMARKS, benchmark_files, load_benchmark
from distill.records import Problem
from distill.selection import read_problems

ALL = "benchmarks"
"""Stands for every benchmark with a test split whose file is in the data folder; recordings are no benchmarks."""


@dataclass(frozen=True, slots=True)
class Exams:
    """Held-out problems of benchmarks."""

    problems: tuple[Problem, ...]
    missing: tuple[str, ...]
    """Benchmarks the toolkit scores whose files are not in the data folder: nothing was compared with them."""


def test_problems(path: Path) -> list[Problem]:
    """Test-split problems of a run folder or a file; a place without any is a mistake."""
    found = [problem for problem in read_problems(path) if problem.split == "test"]
    if not found:
        raise UserError(f"{path}: holds no problem of split 'test', so nothing can be checked against it")
    return found


def benchmark_tests(data: Path, names: Sequence[str] = (ALL,)) -> Exams:
    """Test problems of the benchmarks named, or of all there are. UserError when there is none."""
    there, missing = _present(data, names)
    return Exams(tuple(problem for name in there for problem in load_benchmark(name, "test", data)), tuple(missing))


def benchmark_test_files(data: Path, names: Sequence[str] = (ALL,)) -> list[Path]:
    """The files `benchmark_tests` reads, for fingerprints."""
    there, _ = _present(data, names)
    return sorted({file for name in there for file in benchmark_files(name, "test", data)})


def _present(data: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Benchmarks that are there, and those that are not; one that is asked for by name must be."""
    tested = [name for name, benchmark in BENCHMARKS.items() if "test" in benchmark.files]
    scored = [name for name in tested if not BENCHMARKS[name].recorded]
    for name in names:
        if name != ALL and name not in tested:
            raise UserError(f"benchmark {name!r}: no test split to check against{did_you_mean(name, tested)}")
    wanted = list(dict.fromkeys(name for named in names for name in (scored if named == ALL else [named])))
    missing = [name for name in wanted if name not in names and not _is_there(name, data)]
    there = [name for name in wanted if name not in missing]
    if not there:
        raise UserError(
            f"{data}: holds no test file of any benchmark; pass --data or set DISTILL_DATA (docs/real-input.md)"
        )
    return there, missing


def _is_there(name: str, data: Path) -> bool:
    file = BENCHMARKS[name].files["test"]
    return any((data / found).is_file() for found in (file, f"{file}.gz"))
