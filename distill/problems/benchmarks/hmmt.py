"""HMMT: the Harvard-MIT Mathematics Tournament of February 2025 and 2026, some thirty problems, answers formulas.

Compiled by MathArena (Balunović et al. 2025, arXiv:2505.23281); rights in the problems are with HMMT. The prompt is
the problem as it stands. Not among the files the toolkit was tested on: any with `id` or `problem_idx`, `problem` and
`answer` is read.
"""

from distill.problems.benchmarks.aime import NumberedRow, numbered_problem
from distill.problems.benchmarks.benchmark import Benchmark

HMMT_25 = Benchmark(
    {"test": "hmmt25.jsonl"},
    NumberedRow,
    numbered_problem,
    paper="Balunović et al. 2025, arXiv:2505.23281",
    license="CC-BY-NC-SA-4.0 for the file, rights in the problems with HMMT",
    origin="huggingface.co/datasets/MathArena/hmmt_feb_2025, exported to JSONL",
)
HMMT_26 = Benchmark(
    {"test": "hmmt26.jsonl"},
    NumberedRow,
    numbered_problem,
    paper=HMMT_25.paper,
    license=HMMT_25.license,
    origin="huggingface.co/datasets/MathArena/hmmt_feb_2026, exported to JSONL",
)
