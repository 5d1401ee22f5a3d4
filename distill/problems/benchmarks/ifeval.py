"""IFEval: 541 prompts that say how the answer has to look (Zhou et al. 2023, arXiv:2311.07911).

Apache-2.0, `input_data.jsonl` of google-research, saved as `ifeval.jsonl`. The prompt is the prompt as it stands. Not
among the files the toolkit was tested on.

What is not covered: judging. Whether an answer keeps to its instructions is another kind of verdict; these problems
are open, which a bench counts as undecided. They serve to harvest answers, and to keep the prompts out of training.
"""

from distill.problems.benchmarks.benchmark import Benchmark, Row, Split
from distill.records import Problem


class IfevalRow(Row):
    """A prompt and the names of what it demands."""

    key: int
    prompt: str
    instruction_id_list: tuple[str, ...]


def _problem(name: str, split: Split, row: IfevalRow) -> Problem:
    demands = ", ".join(row.instruction_id_list)
    return Problem(id=f"{name}/{row.key}", kind="open", prompt=row.prompt, source=name, split=split, subject=demands)


IFEVAL = Benchmark(
    {"test": "ifeval.jsonl"},
    IfevalRow,
    _problem,
    paper="Zhou et al. 2023, arXiv:2311.07911",
    license="Apache-2.0",
    origin="github.com/google-research/google-research, instruction_following_eval/data/input_data.jsonl",
)
