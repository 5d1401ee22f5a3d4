"""Problems made from recorded answers, so that a replay has exactly the problems it was recorded on.

100 MATH problems with eight answers each from the evaluation of Qwen2.5-Math (arXiv:2409.12122, MIT), and 10 with four
R1-Distill traces each from thought-anchors (arXiv:2506.19143, MIT). The prompt is the problem as it stands.
"""

from pydantic import field_validator

from distill.problems.benchmarks.benchmark import Benchmark, Row, Split
from distill.problems.benchmarks.competition_math import level_number
from distill.records import Problem


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
        return level_number(value)


class TracedRow(Row):
    """Recorded traces that name their problem by its benchmark id."""

    problem_id: str


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


MATH_COT_SAMPLES = Benchmark(
    {"test": "math_cot_samples_qwen.jsonl"},
    QwenSampleRow,
    _qwen_sample,
    paper="Yang et al. 2024, arXiv:2409.12122",
    license="MIT",
    origin="github.com/QwenLM/Qwen2.5-Math, evaluation/data/eval_rm_maj_example/math_cot_100.jsonl",
    recorded=True,
)
R1_DISTILL_TRACES = Benchmark(
    {"test": "r1_distill_math_traces.jsonl"},
    R1TraceRow,
    _r1_trace,
    paper="Bogdan et al. 2025, arXiv:2506.19143",
    license="MIT",
    origin="github.com/manncodes/thought-anchors, frontend/src/app/data",
    recorded=True,
)
