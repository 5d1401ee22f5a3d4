"""Every benchmark, by the name a recipe uses."""

from collections.abc import Mapping

from distill.problems.benchmarks.aime import AIME_24, AIME_25, AIME_26
from distill.problems.benchmarks.benchmark import Benchmark
from distill.problems.benchmarks.competition_math import MATH, MATH_500
from distill.problems.benchmarks.evalplus import HUMANEVAL_PLUS, MBPP_PLUS
from distill.problems.benchmarks.gpqa import GPQA_DIAMOND
from distill.problems.benchmarks.gsm8k import GSM8K, TRACED
from distill.problems.benchmarks.hmmt import HMMT_25, HMMT_26
from distill.problems.benchmarks.humaneval import HUMANEVAL
from distill.problems.benchmarks.ifeval import IFEVAL
from distill.problems.benchmarks.livecodebench import LIVECODEBENCH_V6
from distill.problems.benchmarks.mbpp import FULL, SANITIZED
from distill.problems.benchmarks.mgsm import MGSM_ZH
from distill.problems.benchmarks.recorded import MATH_COT_SAMPLES, R1_DISTILL_TRACES

BENCHMARKS: Mapping[str, Benchmark] = {
    "gsm8k": GSM8K,
    "gsm8k_traced": TRACED,
    "math": MATH,
    "math500": MATH_500,
    "aime24": AIME_24,
    "aime25": AIME_25,
    "aime26": AIME_26,
    "hmmt25": HMMT_25,
    "hmmt26": HMMT_26,
    "gpqa_diamond": GPQA_DIAMOND,
    "humaneval": HUMANEVAL,
    "humanevalplus": HUMANEVAL_PLUS,
    "mbpp": FULL,
    "mbpp_sanitized": SANITIZED,
    "mbppplus": MBPP_PLUS,
    "livecodebench_v6": LIVECODEBENCH_V6,
    "mgsm_zh": MGSM_ZH,
    "ifeval": IFEVAL,
    "math_cot_samples": MATH_COT_SAMPLES,
    "r1_distill_math_traces": R1_DISTILL_TRACES,
}
