"""GSM8K: grade-school word problems whose answer is a whole number (Cobbe et al. 2021, arXiv:2110.14168).

7,473 training and 1,319 test problems, MIT, from openai/grade-school-math. The prompt is the question as it stands.
Scores differ by how the answer is found (after `####`, the last number, a box): the protocol says which.
"""

import re

from distill.problems.benchmarks.benchmark import Benchmark, Published, Row, Split
from distill.records import Problem


class GsmRow(Row):
    """GSM8K (Cobbe et al. 2021, arXiv:2110.14168)."""

    id: str
    question: str
    answer: str
    """Human rationale with `<<3*4=12>>` calculator marks and a last line `#### 12`."""
    final: str


def rationale(answer: str) -> str:
    """A GSM8K answer as a person would read it: no calculator marks, no `####` line."""
    return re.sub(r"<<[^<>]*>>", "", answer).split("####")[0].strip()


def _problem(name: str, split: Split, row: GsmRow) -> Problem:
    return Problem(
        id=row.id,
        kind="answer",
        prompt=row.question,
        answer=row.final,
        source="gsm8k",
        split=split,
        solution=rationale(row.answer),
    )


FILES: dict[Split, str] = {"train": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"}
GSM8K = Benchmark(
    FILES,
    GsmRow,
    _problem,
    paper="Cobbe et al. 2021, arXiv:2110.14168",
    license="MIT",
    origin="github.com/openai/grade-school-math",
    published=(
        Published("PaLM 540B", 0.569, "8-shot chain of thought, greedy", "Wei et al. 2022, arXiv:2201.11903"),
        Published("Minerva 540B", 0.588, "8-shot chain of thought, greedy", "Lewkowycz et al. 2022, arXiv:2206.14858"),
    ),
)
TRACED = Benchmark(
    {"train": FILES["train"]},
    GsmRow,
    _problem,
    paper=GSM8K.paper,
    license=GSM8K.license,
    origin=GSM8K.origin,
    only="gsm8k_train_traces_qwen2.5-coder-1.5b.jsonl",
)
"""Those of the training problems that have recorded traces."""
