"""HumanEval+ and MBPP+: the same tasks under many more tests (Liu et al. 2023, arXiv:2305.01210).

Apache-2.0. Reads the rows of evalplus/humanevalplus and evalplus/mbppplus exported to JSONL, whose `test` column is a
program. Prompts are those of HumanEval and MBPP. Not among the files the toolkit was tested on.

The tests take numpy for one thing, comparing floats, and our sandbox has no third-party package: a few lines stand in
for it. A candidate that imports numpy itself fails here and passes there.
"""

from pydantic import Field

from distill.problems.benchmarks.benchmark import Benchmark, Row, Split
from distill.problems.benchmarks.humaneval import HumanEvalRow, humaneval_problem
from distill.problems.benchmarks.mbpp import TESTS_FOLLOW
from distill.records import Problem, Tests

NUMPY = "import numpy as np"
STAND_IN = """\
class np:
    class ndarray: pass
    float32 = float64 = float
    @staticmethod
    def allclose(out, exp, rtol=1e-07, atol=0.0):
        if isinstance(exp, (list, tuple)):
            return len(out) == len(exp) and all(np.allclose(a, b, rtol, atol) for a, b in zip(out, exp))
        return out == exp or abs(out - exp) <= atol + rtol * abs(exp)
"""


class MbppPlusRow(Row):
    """A sanitized task with its tests as a program."""

    task_id: int
    prompt: str
    code: str
    test: str
    test_list: tuple[str, ...] = Field(min_length=1)
    test_imports: tuple[str, ...] = ()


def _without_numpy(test: str) -> str:
    return test.replace(NUMPY, STAND_IN, 1)


def _humaneval(name: str, split: Split, row: HumanEvalRow) -> Problem:
    return humaneval_problem(name, split, row.model_copy(update={"test": _without_numpy(row.test)}))


def _mbpp(name: str, split: Split, row: MbppPlusRow) -> Problem:
    tests = "\n".join(row.test_list)
    return Problem(
        id=f"{name}/{row.task_id}",
        kind="code",
        prompt=f"{row.prompt}{TESTS_FOLLOW}{tests}",
        tests=Tests(entry_point="", check=(_without_numpy(row.test),), setup="\n".join(row.test_imports)),
        source=name,
        split=split,
        solution=row.code,
    )


HUMANEVAL_PLUS = Benchmark(
    {"test": "humanevalplus.jsonl"},
    HumanEvalRow,
    _humaneval,
    paper="Liu et al. 2023, arXiv:2305.01210",
    license="Apache-2.0",
    origin="huggingface.co/datasets/evalplus/humanevalplus, exported to JSONL",
)
MBPP_PLUS = Benchmark(
    {"test": "mbppplus.jsonl"},
    MbppPlusRow,
    _mbpp,
    paper=HUMANEVAL_PLUS.paper,
    license=HUMANEVAL_PLUS.license,
    origin="huggingface.co/datasets/evalplus/mbppplus, exported to JSONL",
)
