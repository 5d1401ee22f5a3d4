"""Intervals: how far a measured fraction can be from the truth.

The unit is the problem: samples of one problem are never counted as independent of one another. Each method was
chosen by coverage, which `docs/statistics.md` tables together with what was not chosen:

- one answer a problem: Wilson's score interval (Wilson 1927, JASA 22), by exact calculation;
- several: the Bayesian bootstrap over problems (Rubin 1981, Annals of Statistics 9), which assumes no shape, with half
  a problem solved and half a problem failed as prior, so that it does not collapse at 0 and 1. Fractions of 0 and 1
  alone would give Jeffreys' interval. This is the advice of Bowyer et al. 2025 (arXiv 2503.01747: no normal intervals
  below a few hundred problems) without their beta-binomial, which covered 33% where problems are solved always, never
  or seldom;
- a difference of two: Bonett and Price 2012 (J. Educ. Behav. Stat. 37) on the differences by problem.

The same values give the same interval. The coverage of `total_interval` stands in `docs/plan.md`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Z95 = NormalDist().inv_cdf(0.975)
PRIOR = 0.5
"""Problems added at 0, and at 1: Jeffreys' prior. With a whole one, 16 samples of each of 30 alike problems of 1% were
covered 79% of the time, with a half 93%."""
RESAMPLES = 4_000
"""Random weights behind a range; they move its ends by about 1% of its width."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95% interval over `n` problems."""

    value: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of one value in [0, 1] a problem: solved or not, a share of its samples, its pass@k.

    Raises ValueError when there is no value, or one lies outside.
    """
    x = checked(values, 0.0, 1.0)
    mean = float(x.mean())
    low, high = wilson(mean, x.size) if np.isin(x, (0.0, 1.0)).all() else _reweighed(x)
    return Interval(mean, min(low, mean), max(high, mean), x.size)


def _reweighed(x: np.ndarray) -> tuple[float, float]:
    """95% range of the mean when problems get random weights, and half a problem is added at each end."""
    value_O, times_O = np.unique(np.append(x, (0.0, 1.0)), return_counts=True)
    times_O = times_O.astype(np.float64)
    times_O[0] += PRIOR - 1.0
    times_O[-1] += PRIOR - 1.0
    weight_RO = np.random.default_rng(0).standard_gamma(times_O, (RESAMPLES, times_O.size))
    low, high = np.quantile(weight_RO @ value_O / weight_RO.sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


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
    """Mean of a - b over the same problems in the same order, each value in [0, 1].

    One pair is imagined won and one lost. With one sample a problem that is the interval of Bonett and Price; with
    several, where differences are parts of a problem, the imagined pairs are as large as those seen. Raises ValueError
    when the lengths differ.
    """
    difference = differences(a, b)
    mean, center = float(difference.mean()), float(difference.sum()) / (difference.size + 2)
    reach = Z95 * math.sqrt((spread(difference) - center**2) / (difference.size + 2))
    return Interval(mean, max(min(center - reach, mean), -1.0), min(max(center + reach, mean), 1.0), difference.size)


def differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    """a - b by problem, float64 (problems,). Raises ValueError when the lengths differ or a value is no fraction."""
    if len(a) != len(b):
        raise ValueError(f"paired values differ in length: {len(a)} and {len(b)}")
    difference: np.ndarray = checked(a, 0.0, 1.0) - checked(b, 0.0, 1.0)
    return difference


def spread(difference: np.ndarray) -> float:
    """Mean square of the differences by problem with one imagined pair each way.

    An imagined pair is as large as the root mean square of those that differ, one of them a whole problem.
    """
    squares = float((difference**2).sum())
    imagined = (squares + 1.0) / (np.count_nonzero(difference) + 1)
    return (squares + 2.0 * imagined) / (difference.size + 2)


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
