"""Real benchmarks: rows of a local file become problems.

Reads the public test sets as compact JSONL, plain or gzipped, from one directory (`--data`,
`DISTILL_DATA` or `data/`); docs/real-input.md gives the columns and the licences. Nothing is
downloaded and no benchmark text is kept here. Two sources are made from recorded traces, so
that a replay has exactly the problems it was recorded on.

What is not covered: prompts with worked shots, and the chat wording around a problem; a
problem holds the task alone, and the stage that asks adds the instruction.
"""

import ast
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from distill.errors import UserError, did_you_mean
from distill.jsonl import read_jsonl
from distill.records import Problem, Record, Tests

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


class Row(Record):
    """One line of a benchmark file; columns nobody asked for are passed over."""

    model_config = ConfigDict(extra="ignore")


class GsmRow(Row):
    """GSM8K (Cobbe et al. 2021, arXiv:2110.14168)."""

    id: str
    question: str
    answer: str
    """Human rationale with `<<3*4=12>>` calculator marks and a last line `#### 12`."""
    final: str


class MathRow(Row):
    """MATH (Hendrycks et al. 2021, arXiv:2103.03874) and AIME."""

    id: str
    problem: str
    answer: str
    solution: str | None = None
    level: int | None = None
    subject: str | None = None

    @field_validator("level", mode="before")
    @classmethod
    def _level_number(cls, value: object) -> object:
        return _level(value)


class HumanEvalRow(Row):
    """HumanEval (Chen et al. 2021, arXiv:2107.03374)."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


class MbppRow(Row):
    """MBPP (Austin et al. 2021, arXiv:2108.07732), full (`text`) or sanitized (`prompt`)."""

    task_id: int
    text: str = Field(validation_alias="prompt")
    code: str
    test_list: tuple[str, ...] = Field(min_length=1)
    test_setup_code: str = ""
    test_imports: tuple[str, ...] = ()

    @property
    def entry_point(self) -> str | None:
        """The function of the reference program that the first assert calls."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 18 programs of MBPP hold string escapes that Python only warns about
            program, test = ast.parse(_unix(self.code)), ast.parse(self.test_list[0])
        defined = {node.name for node in program.body if isinstance(node, ast.FunctionDef)}
        calls = (node.func for node in ast.walk(test) if isinstance(node, ast.Call))
        return next((call.id for call in calls if isinstance(call, ast.Name) and call.id in defined), None)

    @model_validator(mode="after")
    def _calls_a_function_it_defines(self) -> "MbppRow":
        try:
            found = self.entry_point
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"code or test_list: not Python ({error})") from error
        if found is None:
            raise ValueError("test_list: its first test calls no function that code defines")
        return self


class MbppFullRow(MbppRow):
    """The full file calls the task `text`."""

    text: str


class QwenSampleRow(Row):
    """Recorded answers to MATH problems: the first row of a problem carries its text."""

    problem_id: int
    problem: str | None = None
    gold: str


class R1TraceRow(Row):
    """Recorded R1-Distill traces: every row carries its problem."""

    id: str
    """`<model>/<outcome>/problem_<number>`."""
    problem: str
    gold: str
    level: int | None = None
    subject: str | None = None

    @property
    def problem_key(self) -> str:
        """The id of the problem it answers."""
        return f"r1_distill_math_traces/{self.id.rpartition('_')[2]}"

    @field_validator("level", mode="before")
    @classmethod
    def _level_number(cls, value: object) -> object:
        return _level(value)


class TracedRow(Row):
    """Recorded traces that name their problem by its benchmark id."""

    problem_id: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Where a benchmark's rows stand and what each becomes."""

    files: Mapping[Split, str]
    """File name without `.gz`, by split."""
    row: type[Row]
    problem: Callable[[str, Split, Any], Problem | None]
    """(benchmark, split, row) to a problem, or None for a row of another split."""
    recorded: bool = False
    """A file of recorded answers: a problem has many rows and its first one counts."""
    only: str | None = None
    """A file of recorded traces; only the problems it names are kept."""


def load_benchmark(name: str, split: str, data_dir: Path, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of one split, in file order.

    Raises UserError when the file is missing, a line is malformed (every one is named) or an
    id occurs twice.
    """
    if limit is not None and limit < 1:
        raise UserError(f"benchmark {name}: limit: expected a whole number from 1, got {limit}")
    benchmark, wanted = _find(name, split)
    path, *others = benchmark_files(name, split, data_dir)
    made = (benchmark.problem(name, wanted, row) for row in read_jsonl(path, benchmark.row))
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


def _gsm(name: str, split: Split, row: GsmRow) -> Problem:
    return Problem(
        id=row.id,
        kind="answer",
        prompt=row.question,
        answer=row.final,
        source="gsm8k",
        split=split,
        solution=rationale(row.answer),
    )


def rationale(answer: str) -> str:
    """A GSM8K answer as a person would read it: no calculator marks, no `####` line."""
    return re.sub(r"<<[^<>]*>>", "", answer).split("####")[0].strip()


def _math(name: str, split: Split, row: MathRow) -> Problem:
    return Problem(
        id=row.id,
        kind="answer",
        prompt=row.problem,
        answer=row.answer,
        source=name,
        split=split,
        level=row.level,
        subject=row.subject,
        solution=row.solution,
    )


def _level(value: object) -> object:
    """`Level 3` is 3; two MATH rows say `Level ?`, which is no level."""
    if not isinstance(value, str):
        return value
    level = value.removeprefix("Level ")
    return None if level == "?" else level


def _humaneval(name: str, split: Split, row: HumanEvalRow) -> Problem:
    return Problem(
        id=row.task_id,
        kind="code",
        prompt=row.prompt,
        tests=Tests(entry_point=row.entry_point, check=row.test, prefix=row.prompt),
        source=name,
        split=split,
        solution=row.canonical_solution,
    )


MBPP_TEST = range(11, 511)
"""Task ids of the test split (Austin et al., section 2); we call all others train."""


def _mbpp(name: str, split: Split, row: MbppRow) -> Problem | None:
    if (row.task_id in MBPP_TEST) != (split == "test"):
        return None
    tests = "\n".join(row.test_list)
    # Its setup code builds objects of classes the candidate defines, so it runs after it, unlike our setup.
    after = [_unix(row.test_setup_code)] if row.test_setup_code else []
    return Problem(
        id=f"{name}/{row.task_id}",
        kind="code",
        prompt=f"{row.text}\nYour code should pass these tests:\n{tests}",
        tests=Tests(
            entry_point=str(row.entry_point), check=(*after, *row.test_list), setup="\n".join(row.test_imports)
        ),
        source=name,
        split=split,
        solution=_unix(row.code),
    )


def _unix(text: str) -> str:
    """The published MBPP file has Windows line ends."""
    return text.replace("\r\n", "\n")


def _qwen_sample(name: str, split: Split, row: QwenSampleRow) -> Problem | None:
    if row.problem is None:
        return None
    return Problem(
        id=f"{name}/{row.problem_id}",
        kind="answer",
        prompt=row.problem,
        answer=row.gold,
        source=name,
        split=split,
    )


def _r1_trace(name: str, split: Split, row: R1TraceRow) -> Problem:
    return Problem(
        id=row.problem_key,
        kind="answer",
        prompt=row.problem,
        answer=row.gold,
        source=name,
        split=split,
        level=row.level,
        subject=row.subject,
    )


BENCHMARKS: Mapping[str, Benchmark] = {
    "gsm8k": Benchmark({"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"}, GsmRow, _gsm),
    "gsm8k_traced": Benchmark(
        {"train": "gsm8k_train.jsonl"}, GsmRow, _gsm, only="gsm8k_train_traces_qwen2.5-coder-1.5b.jsonl"
    ),
    "math": Benchmark({"train": "math_train.jsonl", "test": "math_test.jsonl"}, MathRow, _math),
    "math500": Benchmark({"test": "math500.jsonl"}, MathRow, _math),
    "aime24": Benchmark({"test": "aime24.jsonl"}, MathRow, _math),
    "aime25": Benchmark({"test": "aime25.jsonl"}, MathRow, _math),
    "humaneval": Benchmark({"test": "humaneval.jsonl"}, HumanEvalRow, _humaneval),
    "mbpp": Benchmark({"train": "mbpp.jsonl", "test": "mbpp.jsonl"}, MbppFullRow, _mbpp),
    "mbpp_sanitized": Benchmark({"train": "mbpp_sanitized.jsonl", "test": "mbpp_sanitized.jsonl"}, MbppRow, _mbpp),
    "math_cot_samples": Benchmark({"test": "math_cot_samples_qwen.jsonl"}, QwenSampleRow, _qwen_sample, recorded=True),
    "r1_distill_math_traces": Benchmark({"test": "r1_distill_math_traces.jsonl"}, R1TraceRow, _r1_trace, recorded=True),
}
"""Every source, by the name a recipe uses."""
