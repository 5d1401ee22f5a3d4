"""Intervals: how far a measured fraction, or a difference of two, can be from the truth.

The unit is the problem: samples of one problem are never counted as independent. Both
intervals imagine one more problem decided each way, which keeps them honest where a
normal interval collapses (all right, all wrong, no difference seen):
- a mean uses Wilson's score interval (Wilson 1927, JASA 22) on the effective number of
  problems, as surveys do with clustered answers (Kott and Carr 1997, J. Official
  Statistics 13);
- a paired difference uses the adjusted Wald interval of Bonett and Price (2012, J. Educ.
  Behav. Statistics 37), recommended by Fagerland, Lydersen and Laake (2014, Statistics in
  Medicine 33).
Coverage by simulation stands in `docs/bench.md`. Everything is closed form: no seed, no
resampling. Nothing here corrects for comparing many pairs at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95% interval over `n` problems."""

    value: float
    low: float
    high: float
    n: int


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


def mean_interval(values: Sequence[float], samples: int = 1) -> Interval:
    """Mean of one value in [0, 1] a problem, each the average of (at most) `samples` samples.

    With one sample a problem this is Wilson's interval exactly. With more, the number of
    independent answers lies between one and `samples` a problem; the spread of the values
    says where.
    """
    x = _checked(values, 0.0, 1.0)
    mean = float(x.mean())
    padded = np.append(x, (0.0, 1.0))
    middle, spread = float(padded.mean()), float(padded.var())
    effective = min(x.size * middle * (1.0 - middle) / spread, float(x.size * samples))
    low, high = _wilson(mean, effective)
    return Interval(mean, min(low, mean), max(high, mean), x.size)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Mean of a - b over the same problems in the same order, each value in [0, 1]."""
    if len(a) != len(b):
        raise ValueError(f"paired values differ in length: {len(a)} and {len(b)}")
    difference = _checked(a, 0.0, 1.0) - _checked(b, 0.0, 1.0)
    mean = float(difference.mean())
    padded = np.append(difference, (-1.0, 1.0))
    center, reach = float(padded.mean()), Z95 * math.sqrt(float(padded.var()) / padded.size)
    return Interval(mean, max(min(center - reach, mean), -1.0), min(max(center + reach, mean), 1.0), difference.size)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p-value that a and b are equally good, from the problems only one of them solved."""
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**discordant))


def _wilson(p: float, n: float) -> tuple[float, float]:
    center = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    reach = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return max(center - reach, 0.0), min(center + reach, 1.0)


def _checked(values: Sequence[float], low: float, high: float) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise ValueError("an interval needs at least one problem")
    if not (np.isfinite(x).all() and (x >= low).all() and (x <= high).all()):
        raise ValueError(f"values must lie in [{low}, {high}]")
    return x
