"""HumanEval: 164 functions to complete from their head and docstring (Chen et al. 2021, arXiv:2107.03374).

MIT, from openai/human-eval. The prompt is the head of the program; the completion goes on behind it, or repeats it in
a fenced block. Judged by running the hidden tests.
"""

from distill.problems.benchmarks.benchmark import Benchmark, Row, Split, from_report
from distill.records import Problem, Tests


class HumanEvalRow(Row):
    """A function to complete."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def humaneval_problem(name: str, split: Split, row: HumanEvalRow) -> Problem:
    """A row as a problem."""
    return Problem(
        id=row.task_id,
        kind="code",
        prompt=row.prompt,
        tests=Tests(entry_point=row.entry_point, check=row.test, prefix=row.prompt),
        source=name,
        split=split,
        solution=row.canonical_solution,
    )


HUMANEVAL = Benchmark(
    {"test": "humaneval.jsonl"},
    HumanEvalRow,
    humaneval_problem,
    paper="Chen et al. 2021, arXiv:2107.03374",
    license="MIT",
    origin="github.com/openai/human-eval",
    published=from_report(
        "Chen et al. 2021, arXiv:2107.03374, table 1",
        "pass@1, best temperature, 200 samples",
        {"Codex-12B": 28.81, "Codex-300M": 13.17, "GPT-J 6B": 11.62},
    ),
)
