"""GPQA Diamond: 198 multiple-choice questions of graduate science (Rein et al. 2023, arXiv:2311.12022).

CC-BY-4.0; its authors ask that no example be shown in plain text online, and the toolkit shows none. Reads
`gpqa_diamond.csv` as published. The prompt is the question and four choices lettered A to D, in an order that the
row's id alone decides, so that the right letter is as likely to be any of them and stays the same from run to run.
Not among the files the toolkit was tested on. Scores move by a point or two with the order of the choices.
"""

import hashlib

from pydantic import Field

from distill.problems.benchmarks.benchmark import R1_HOW, R1_PAPER, Benchmark, Row, Split, from_report
from distill.records import Problem

LETTERS = "ABCD"


class GpqaRow(Row):
    """A question with one right answer and three wrong ones, under the columns of the published file."""

    id: str = Field(validation_alias="Record ID", min_length=1)
    question: str = Field(validation_alias="Question", min_length=1)
    right: str = Field(validation_alias="Correct Answer", min_length=1)
    wrong_1: str = Field(validation_alias="Incorrect Answer 1", min_length=1)
    wrong_2: str = Field(validation_alias="Incorrect Answer 2", min_length=1)
    wrong_3: str = Field(validation_alias="Incorrect Answer 3", min_length=1)
    subject: str | None = Field(default=None, validation_alias="High-level domain")


def _problem(name: str, split: Split, row: GpqaRow) -> Problem:
    answers = [row.right, row.wrong_1, row.wrong_2, row.wrong_3]
    order = sorted(range(len(answers)), key=lambda place: hashlib.sha256(f"{row.id}/{place}".encode()).digest())
    lines = (f"{letter}) {answers[place].strip()}" for letter, place in zip(LETTERS, order, strict=True))
    return Problem(
        id=f"{name}/{row.id}",
        kind="answer",
        prompt="\n".join((row.question.strip(), "", *lines, "", "Answer with the letter of the right choice.")),
        answer=LETTERS[order.index(0)],
        source=name,
        split=split,
        subject=row.subject,
    )


GPQA_DIAMOND = Benchmark(
    {"test": "gpqa_diamond.csv"},
    GpqaRow,
    _problem,
    paper="Rein et al. 2023, arXiv:2311.12022",
    license="CC-BY-4.0",
    origin="github.com/idavidrein/gpqa",
    published=from_report(
        R1_PAPER,
        R1_HOW,
        {
            "DeepSeek-R1-Distill-Qwen-1.5B": 33.8,
            "DeepSeek-R1-Distill-Qwen-7B": 49.1,
            "DeepSeek-R1-Distill-Llama-8B": 49.0,
            "DeepSeek-R1-Distill-Qwen-14B": 59.1,
            "DeepSeek-R1-Distill-Qwen-32B": 62.1,
            "DeepSeek-R1-Distill-Llama-70B": 65.2,
        },
    ),
)
