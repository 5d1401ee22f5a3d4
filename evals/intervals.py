"""Intervals of differences, and pass@k: what comparing checkpoints needs beside `distill.intervals`.

A paired difference uses the adjusted Wald interval of Bonett and Price (2012, J. Educ. Behav.
Statistics 37), recommended by Fagerland, Lydersen and Laake (2014, Statistics in Medicine
33). Like the interval of a mean it imagines one more problem decided each way. Coverage by
simulation stands in `docs/bench.md`. Everything is closed form: no seed, no resampling.
Nothing here corrects for comparing many pairs at once.
"""

import math
from collections.abc import Sequence

import numpy as np

from distill.intervals import Z95, Interval, checked


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that at least one of k samples is right, unbiased (Chen et al. 2021, equation 1).

    1 - C(samples - correct, k) / C(samples, k), as a product so that no number grows large.
    """
    if not 0 <= correct <= samples:
        raise ValueError(f"correct must be in 0..{samples}, got {correct}")
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {samples}")
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Mean of a - b over the same problems in the same order, each value in [0, 1]."""
    if len(a) != len(b):
        raise ValueError(f"paired values differ in length: {len(a)} and {len(b)}")
    difference = checked(a, 0.0, 1.0) - checked(b, 0.0, 1.0)
    mean = float(difference.mean())
    padded = np.append(difference, (-1.0, 1.0))
    center, reach = float(padded.mean()), Z95 * math.sqrt(float(padded.var()) / padded.size)
    return Interval(mean, max(min(center - reach, mean), -1.0), min(max(center + reach, mean), 1.0), difference.size)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p-value that a and b are equally good, from the problems only one of them solved."""
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**discordant))
