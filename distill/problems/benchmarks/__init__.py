"""Real benchmarks, one short file each: paper, license, source, prompt, published scores, and what its rows become.

`table` names them all, `loading` reads the files a user has. Nothing is downloaded and no benchmark text is kept here.
What is not covered: worked examples and the wording around a problem; a problem holds the task alone, and the protocol
that asks (`evals.protocols`) adds the rest.
"""

from distill.problems.benchmarks.benchmark import Benchmark, Published, Row, Split
from distill.problems.benchmarks.gsm8k import GsmRow, rationale
from distill.problems.benchmarks.loading import benchmark_files, benchmark_rows, data_file, load_benchmark
from distill.problems.benchmarks.recorded import R1TraceRow
from distill.problems.benchmarks.table import BENCHMARKS

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "GsmRow",
    "Published",
    "R1TraceRow",
    "Row",
    "Split",
    "benchmark_files",
    "benchmark_rows",
    "data_file",
    "load_benchmark",
    "rationale",
]
