"""What comparing checkpoints needs beside `distill.intervals`: pass@k, McNemar's test and power. Closed form all."""

import math
from collections.abc import Sequence
from statistics import NormalDist

from distill.intervals import Z95, differences, spread

POWER = 0.8
"""Chance of seeing a difference that is there, where a size is called detectable."""
REACH = Z95 + NormalDist().inv_cdf(POWER)


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


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p-value that a and b are equally good, from the problems only one of them solved."""
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**discordant))


def detectable(a: Sequence[float], b: Sequence[float]) -> float:
    """Smallest difference that as many problems, on which two differ as these do, tell from zero four times of five.

    `a`, `b`: one value in [0, 1] a problem, in the same order. The mean square of the differences stays what it is
    and the difference d comes out of it: d = (z_0.975 + z_0.8) sqrt((square - d^2) / n), as for paired proportions in
    Connor 1987 (Biometrics 43). `docs/statistics.md` says how often McNemar's test sees such a difference.
    """
    difference = differences(a, b)
    return smallest(spread(difference), difference.size)


def smallest(square: float, n: int) -> float:
    """The same from the mean square of the differences by problem; with one sample a problem, the share that flips."""
    return REACH * math.sqrt(square / (n + REACH**2))


def needed(square: float, difference: float) -> int:
    """Problems after which `difference` is detectable; ValueError for none."""
    if not 0.0 < difference <= 1.0:
        raise ValueError(f"expected a difference above 0 and up to 1, got {difference}")
    return max(math.ceil(REACH**2 * (square / difference**2 - 1.0)), 1)
