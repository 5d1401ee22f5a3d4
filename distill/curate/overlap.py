"""Overlap: how much of the held-out problems stands in training files, and where.

Reads problems, examples and traces, from files or run folders, one record at a time. Counts both ways: held-out
problems that are met, by how, and training texts that would be dropped. Changes nothing.
"""

import gzip
import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distill.curate.decontaminate import WINDOW, HeldOut, Match, Method, Shared, Variants, dropping
from distill.curate.held_out import ALL, Exams, benchmark_tests, test_problems
from distill.curate.normalize import words
from distill.errors import UserError
from distill.harvest.draw import TRACES
from distill.jsonl import iter_jsonl, write_jsonl
from distill.ledger import read_ledger
from distill.problems.benchmarks import BENCHMARKS, load_benchmark
from distill.progress import Progress
from distill.records import Example, Problem, Trace
from distill.runs import Report


@dataclass(frozen=True, slots=True)
class Said:
    """One training text."""

    where: Literal["prompt", "trace"]
    problem_id: str
    trace_id: str | None
    text: str


@dataclass(slots=True)
class Overlap:
    """What was met, counted while texts are compared."""

    held_out: Counter[str]
    """Held-out problems by source."""
    sources: dict[str, str]
    """Source of each held-out problem, by id."""
    met: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """Ids of held-out problems met, by (source, how); `13 words` counts what is the same as well."""
    texts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Training texts by (file, where) and, of those, with `dropped` or `flagged` for where."""

    def count(self, file: str, said: Said, found: Sequence[Shared]) -> None:
        """One text and what it shares."""
        self.texts[file, said.where] += 1
        if found:
            self.texts[file, f"{said.where}s dropped" if dropping(found) else f"{said.where}s flagged"] += 1
        for shared in found:
            for against in (shared.against_id, *shared.also):
                source = self.sources[against]
                self.met[source, shared.how].add(against)
                if shared.how == "13-gram" or (shared.how == "same" and len(words(shared.span)) >= WINDOW):
                    self.met[source, "13 words"].add(against)
                if shared.drops:
                    self.met[source, "dropping"].add(against)


def overlap(
    files: Sequence[str],
    against: Sequence[str],
    *,
    data: Path,
    method: Method,
    near: Variants,
    numbers_changed: Variants,
    out: Path | None,
    progress: Progress,
) -> Report:
    """Compare training files with held-out problems; write every match to `out`.

    Both are files, run folders or benchmarks of the data folder; `benchmarks` stands for all of those. Raises UserError
    when one is none of these.
    """
    exams, missing = _held_out(against, data)
    index = HeldOut(exams, method, near=near, numbers_changed=numbers_changed)
    counted = Overlap(Counter(row.source for row in exams), {row.id: row.source for row in exams})

    def matches() -> Iterator[Match]:
        with progress.task("decontaminate", unit="texts") as task:
            for file in files:
                for said in read_texts(file, data):
                    found = index.in_prompt(said.text) if said.where == "prompt" else index.in_trace(said.text)
                    counted.count(file, said, found)
                    task.advance()
                    yield from (shared.match(said.where, said.problem_id, said.trace_id) for shared in found)

    if out is None:
        deque(matches(), maxlen=0)
    else:
        write_jsonl(out, matches())
    return _report(counted, method, missing)


def _held_out(against: Sequence[str], data: Path) -> tuple[list[Problem], tuple[str, ...]]:
    """Held-out problems, each once, and the benchmarks that are missing."""
    paths = [name for name in against if Path(name).exists() and name != ALL]
    names = [name for name in against if name not in paths]
    exams = benchmark_tests(data, names) if names else Exams((), ())
    problems = [*exams.problems, *(problem for path in paths for problem in test_problems(Path(path)))]
    return list({problem.id: problem for problem in problems}.values()), exams.missing


def _report(counted: Overlap, method: str, missing: Sequence[str]) -> Report:
    """The counts as two aligned tables."""
    head = ("held-out", "problems", "same", "13 words", "short prompt", "near", "numbers-changed", "dropping")
    rows: list[tuple[str, ...]] = [head]
    for source, problems in sorted(counted.held_out.items()):
        met = [f"{len(counted.met[source, how]):,}" for how in head[2:]]
        rows.append((source, f"{problems:,}", *met))
    columns = ("prompt", "prompts dropped", "prompts flagged", "trace", "traces dropped", "traces flagged")
    texts: list[tuple[str, ...]] = [("training", "prompts", "dropped", "flagged", "traces", "dropped", "flagged")]
    for file in dict.fromkeys(file for file, _ in counted.texts):
        texts.append((file, *(f"{counted.texts[file, column]:,}" for column in columns)))
    lines = [*_aligned(rows), "", *_aligned(texts), "", f"method {method}"]
    if missing:
        lines.append(f"not compared with: {', '.join(missing)} (no file in the data folder)")
    counts: dict[str, int | float] = {
        f"{source}: {how}": len(found) for (source, how), found in sorted(counted.met.items())
    }
    return Report(counts=counts, lines=tuple(lines))


def read_texts(name: str, data: Path) -> Iterator[Said]:
    """Prompts and traces of a file, a run folder, or a benchmark (`math:train`; train is what is meant without).

    Raises UserError when it is none of these.
    """
    path = Path(name)
    benchmark, _, split = name.partition(":")
    if path.is_dir():
        yield from _folder(path)
    elif path.is_file():
        yield from _file(path)
    elif benchmark in BENCHMARKS:
        yield from map(_asked, load_benchmark(benchmark, split or "train", data))
    else:
        raise UserError(f"{name}: no such file or run folder, nor a benchmark ({', '.join(sorted(BENCHMARKS))})")


def _folder(path: Path) -> Iterator[Said]:
    files = [path / file for file in ("problems.jsonl", "examples.jsonl") if (path / file).is_file()]
    for file in files:
        yield from _file(file)
    if (path / TRACES).is_dir():
        for trace in read_ledger(path / TRACES, Trace):
            yield Said("trace", trace.problem_id, trace.id, trace.text)
    elif not files:
        raise UserError(f"{path}: expected problems.jsonl, examples.jsonl or {TRACES}/ in it")


def _file(path: Path) -> Iterator[Said]:
    keys = _first_keys(path)
    if "prompt" in keys:
        yield from map(_asked, iter_jsonl(path, Problem))
    elif "messages" in keys:
        for example in iter_jsonl(path, Example):
            for message in example.messages:
                where: Literal["prompt", "trace"] = "trace" if message.role == "assistant" else "prompt"
                yield Said(where, example.problem_id, example.trace_id, message.content)
    elif "text" in keys:
        for trace in iter_jsonl(path, Trace):
            yield Said("trace", trace.problem_id, trace.id, trace.text)
    else:
        raise UserError(f"{path}: expected JSONL of problems, examples or traces (keys prompt, messages or text)")


def _first_keys(path: Path) -> Iterable[str]:
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file:
            row = json.loads(file.readline())
    except ValueError as error:  # JSON and Unicode errors are ValueErrors
        raise UserError(f"{path}:1: not JSON ({error})") from error
    return row if isinstance(row, dict) else ()


def _asked(problem: Problem) -> Said:
    return Said("prompt", problem.id, None, problem.prompt)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
