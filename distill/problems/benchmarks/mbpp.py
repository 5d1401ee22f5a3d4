"""MBPP: short Python functions from one sentence and three asserts (Austin et al. 2021, arXiv:2108.07732).

CC-BY-4.0, from google-research. Full: 974 tasks, of which 11 to 510 are the test split. Sanitized: the 427 whose
sentence and tests were gone over by hand. Our prompt ends with the tests, because they name the function.
"""

import ast
import warnings

from pydantic import Field, model_validator

from distill.problems.benchmarks.benchmark import Benchmark, Row, Split
from distill.records import Problem, Tests

TEST_IDS = range(11, 511)
"""Task ids of the test split (Austin et al., section 2); we call all others train."""
TESTS_FOLLOW = "\nYour code should pass these tests:\n"


class MbppRow(Row):
    """A task, full (`text`) or sanitized (`prompt`)."""

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


def mbpp_problem(name: str, split: Split, row: MbppRow) -> Problem | None:
    """A row as a problem, where it is of this split."""
    if (row.task_id in TEST_IDS) != (split == "test"):
        return None
    tests = "\n".join(row.test_list)
    # Its setup code builds objects of classes the candidate defines, so it runs after it, unlike our setup.
    after = [_unix(row.test_setup_code)] if row.test_setup_code else []
    return Problem(
        id=f"{name}/{row.task_id}",
        kind="code",
        prompt=f"{row.text}{TESTS_FOLLOW}{tests}",
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


FULL = Benchmark(
    {"train": "mbpp.jsonl", "test": "mbpp.jsonl"},
    MbppFullRow,
    mbpp_problem,
    paper="Austin et al. 2021, arXiv:2108.07732",
    license="CC-BY-4.0",
    origin="github.com/google-research/google-research, mbpp/mbpp.jsonl",
)
SANITIZED = Benchmark(
    {"train": "mbpp_sanitized.jsonl", "test": "mbpp_sanitized.jsonl"},
    MbppRow,
    mbpp_problem,
    paper=FULL.paper,
    license=FULL.license,
    origin="github.com/google-research/google-research, mbpp/sanitized-mbpp.json",
)
