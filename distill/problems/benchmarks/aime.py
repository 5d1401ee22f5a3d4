"""AIME 2024, 2025 and 2026: fifteen problems an exam, two exams a year, answers whole numbers from 0 to 999.

From the American Invitational Mathematics Examination of the Mathematical Association of America, which holds the
rights to the problems; the files carry their compilers' licenses. The prompt is the problem as it stands. Thirty
problems make a 95% interval of some 13 points on either side however many samples are drawn. The file of 2026 is not
among those the toolkit was tested on: any with `id` or `problem_idx`, `problem` and `answer` is read (MathArena's).
"""

from pydantic import AliasChoices, Field, field_validator

from distill.problems.benchmarks.benchmark import OPEN_R1, R1_HOW, R1_PAPER, Benchmark, Published, Split, from_report
from distill.problems.benchmarks.competition_math import MathRow, math_problem
from distill.records import Problem

PAPER = "American Invitational Mathematics Examination, Mathematical Association of America"


class NumberedRow(MathRow):
    """A row of MathArena's files, which number their problems and write whole answers as numbers."""

    id: str = Field(validation_alias=AliasChoices("id", "problem_idx"))

    @field_validator("id", "answer", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value


def numbered_problem(name: str, split: Split, row: NumberedRow) -> Problem:
    """A row as a problem whose id says which benchmark it is of, where the row's own is a bare number."""
    found = math_problem(name, split, row)
    return found.model_copy(update={"id": f"{name}/{row.id}"}) if row.id.isdigit() else found


AIME_24 = Benchmark(
    {"test": "aime24.jsonl"},
    MathRow,
    math_problem,
    paper=PAPER,
    license="MIT for the file, rights in the problems with the MAA",
    origin="github.com/QwenLM/Qwen2.5-Math, evaluation/data/aime24",
    published=(
        *from_report(
            R1_PAPER,
            R1_HOW,
            {
                "DeepSeek-R1-Distill-Qwen-1.5B": 28.9,
                "DeepSeek-R1-Distill-Qwen-7B": 55.5,
                "DeepSeek-R1-Distill-Llama-8B": 50.4,
                "DeepSeek-R1-Distill-Qwen-14B": 69.7,
                "DeepSeek-R1-Distill-Qwen-32B": 72.6,
                "DeepSeek-R1-Distill-Llama-70B": 70.0,
            },
        ),
        Published("DeepSeek-R1-Distill-Qwen-7B", 0.508, "the same checkpoint, 64 samples", OPEN_R1),
    ),
)
AIME_25 = Benchmark(
    {"test": "aime25.jsonl"},
    MathRow,
    math_problem,
    paper=PAPER,
    license="Apache-2.0 for the file, rights in the problems with the MAA",
    origin="github.com/QwenLM/QwQ, eval/data/aime25.jsonl",
)
AIME_26 = Benchmark(
    {"test": "aime26.jsonl"},
    NumberedRow,
    numbered_problem,
    paper=PAPER,
    license="CC-BY-NC-SA-4.0 for the file, rights in the problems with the MAA",
    origin="huggingface.co/datasets/MathArena/aime_2026, exported to JSONL",
)
