"""Intervals: how far a measured fraction can be from the truth.

The unit is the problem: samples of one problem are never counted as independent of one
another when many problems are averaged. The interval of a mean imagines one more problem
decided each way, which keeps it honest where a normal interval collapses (all right, all
wrong): Wilson's score interval (Wilson 1927, JASA 22) on the effective number of problems,
as surveys do with clustered answers (Kott and Carr 1997, J. Official Statistics 13).
Coverage by simulation stands in `docs/bench.md`, that of `total_interval` in `docs/plan.md`. Closed
form: no seed, no resampling. Differences of two are evals' matter.
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


def mean_interval(values: Sequence[float], samples: int = 1) -> Interval:
    """Mean of one value in [0, 1] a problem, each the average of (at most) `samples` samples.

    With one sample a problem this is Wilson's interval exactly. With more, the number of
    independent answers lies between one and `samples` a problem; the spread of the values
    says where.
    """
    x = checked(values, 0.0, 1.0)
    mean = float(x.mean())
    padded = np.append(x, (0.0, 1.0))
    middle, spread = float(padded.mean()), float(padded.var())
    effective = min(x.size * middle * (1.0 - middle) / spread, float(x.size * samples))
    low, high = wilson(mean, effective)
    return Interval(mean, min(low, mean), max(high, mean), x.size)


def total_interval(values: Sequence[float], population: int) -> Interval:
    """Sum over `population` problems, from one value a problem of some drawn at random without replacement.

    Token counts are skewed, and Student's interval then misses totals above it: so the studentized mean is
    first freed of its skewness by a cubic that always inverts (Hall 1992, J. R. Statist. Soc. B 54). The
    share already seen is no longer uncertain (Cochran 1977, section 2.6). Raises ValueError for fewer than
    two values where there are more problems, or more values than problems.
    """
    x = np.asarray(values, dtype=np.float64)
    if not 0 < x.size <= population or not np.isfinite(x).all():
        raise ValueError(f"expected 1 to {population} finite values, got {x.size}")
    mean, spread = float(x.mean()), float(x.std())
    if x.size == population:
        return Interval(float(x.sum()), float(x.sum()), float(x.sum()), x.size)
    if x.size < 2:
        raise ValueError("an interval of a total needs two problems or more")
    reach = spread * math.sqrt((1 - x.size / population) / (x.size - 1))
    skew = float(((x - mean) ** 3).mean()) / spread**3 / math.sqrt(x.size) if spread else 0.0
    t = _student(x.size - 1)
    low, high = mean - _unskewed(t, skew) * reach, mean - _unskewed(-t, skew) * reach
    seen = float(x.sum()) if (x >= 0).all() else -math.inf
    return Interval(mean * population, max(low * population, seen), high * population, x.size)


def _unskewed(t: float, skew: float) -> float:
    """Where a studentized mean lies whose transform is `t`; `skew` is that of the values over the root of n."""
    return t if abs(skew) < 1e-9 else 3 * (float(np.cbrt(1 + skew * (t - skew / 6))) - 1) / skew


def _student(freedom: int) -> float:
    """The 97.5% quantile of Student's t (Abramowitz and Stegun, 26.7.5); within 1% from 4 degrees of freedom on."""
    z = Z95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Mean of a - b over the same problems in the same order, each value in [0, 1]."""
    if len(a) != len(b):
        raise ValueError(f"paired values differ in length: {len(a)} and {len(b)}")
    difference = checked(a, 0.0, 1.0) - checked(b, 0.0, 1.0)
    mean = float(difference.mean())
    padded = np.append(difference, (-1.0, 1.0))
    center, reach = float(padded.mean()), Z95 * math.sqrt(float(padded.var()) / padded.size)
    return Interval(mean, max(min(center - reach, mean), -1.0), min(max(center + reach, mean), 1.0), difference.size)


def wilson(p: float, n: float) -> tuple[float, float]:
    """95% score interval of a fraction `p` seen in `n` independent trials."""
    center = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    reach = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return max(center - reach, 0.0), min(center + reach, 1.0)


def checked(values: Sequence[float], low: float, high: float) -> np.ndarray:
    """As float64. Raises ValueError when there is none, or one lies outside."""
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise ValueError("an interval needs at least one problem")
    if not (np.isfinite(x).all() and (x >= low).all() and (x <= high).all()):
        raise ValueError(f"values must lie in [{low}, {high}]")
    return x
