"""MATH: competition problems of seven subjects and five levels (Hendrycks et al. 2021, arXiv:2103.03874), and MATH-500.

7,500 training and 5,000 test problems, MIT. MATH-500 is the test split of Lightman et al. 2023 (arXiv:2305.20050,
openai/prm800k): 500 of the 5,000. The prompt is the problem as it stands. Eight test solutions box several answers, of
which `answer` holds the last; 589 test problems share 13 words in a row with a training problem.
"""

from pydantic import field_validator

from distill.problems.benchmarks.benchmark import (
    OPEN_R1,
    R1_HOW,
    R1_PAPER,
    Benchmark,
    Published,
    Row,
    Split,
    from_report,
)
from distill.records import Problem


class MathRow(Row):
    """A problem whose answer is a formula or a number: MATH, AIME, HMMT."""

    id: str
    problem: str
    answer: str
    solution: str | None = None
    level: int | None = None
    subject: str | None = None

    @field_validator("level", mode="before")
    @classmethod
    def _level_number(cls, value: object) -> object:
        return level_number(value)


def level_number(value: object) -> object:
    """`Level 3` is 3; two MATH rows say `Level ?`, which is no level."""
    if not isinstance(value, str):
        return value
    level = value.removeprefix("Level ")
    return None if level == "?" else level


def math_problem(name: str, split: Split, row: MathRow) -> Problem:
    """A row as a problem."""
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


MATH = Benchmark(
    {"train": "math_train.jsonl", "test": "math_test.jsonl"},
    MathRow,
    math_problem,
    paper="Hendrycks et al. 2021, arXiv:2103.03874",
    license="MIT",
    origin="github.com/hendrycks/math",
    published=(
        Published("Minerva 540B", 0.336, "4-shot, greedy", "Lewkowycz et al. 2022, arXiv:2206.14858"),
        Published("Minerva 62B", 0.276, "4-shot, greedy", "Lewkowycz et al. 2022, arXiv:2206.14858"),
    ),
)
MATH_500 = Benchmark(
    {"test": "math500.jsonl"},
    MathRow,
    math_problem,
    paper="Lightman et al. 2023, arXiv:2305.20050",
    license="MIT",
    origin="github.com/openai/prm800k",
    published=(
        *from_report(
            R1_PAPER,
            R1_HOW,
            {
                "DeepSeek-R1-Distill-Qwen-1.5B": 83.9,
                "DeepSeek-R1-Distill-Qwen-7B": 92.8,
                "DeepSeek-R1-Distill-Llama-8B": 89.1,
                "DeepSeek-R1-Distill-Qwen-14B": 93.9,
                "DeepSeek-R1-Distill-Qwen-32B": 94.3,
                "DeepSeek-R1-Distill-Llama-70B": 94.5,
            },
        ),
        Published("DeepSeek-R1-Distill-Qwen-1.5B", 0.831, "the same checkpoint, 4 samples", OPEN_R1),
        Published("DeepSeek-R1-Distill-Qwen-7B", 0.945, "the same checkpoint, 4 samples", OPEN_R1),
    ),
)
