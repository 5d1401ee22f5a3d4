"""MGSM in Chinese: 250 GSM8K test problems translated by hand (Shi et al. 2022, arXiv:2210.03057).

CC-BY-SA-4.0, `mgsm_zh.tsv` of google-research/url-nlp: question and number, parted by a tab. The prompt is the question
as it stands. Not among the files the toolkit was tested on.
"""

from distill.problems.benchmarks.benchmark import Benchmark, Row, Split
from distill.records import Problem


class MgsmRow(Row):
    """A question and the number that answers it."""

    line: int
    question: str
    answer: str


def _problem(name: str, split: Split, row: MgsmRow) -> Problem:
    answer = row.answer.replace(",", "").strip()
    return Problem(id=f"{name}/{row.line}", kind="answer", prompt=row.question, answer=answer, source=name, split=split)


MGSM_ZH = Benchmark(
    {"test": "mgsm_zh.tsv"},
    MgsmRow,
    _problem,
    paper="Shi et al. 2022, arXiv:2210.03057",
    license="CC-BY-SA-4.0",
    origin="github.com/google-research/url-nlp, mgsm/mgsm_zh.tsv",
    columns=("question", "answer"),
)
