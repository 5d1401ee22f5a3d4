"""Intervals: how far a measured fraction can be from the truth.

The unit is the problem: samples of one problem are never counted as independent of one
another when many problems are averaged. The interval of a mean imagines one more problem
decided each way, which keeps it honest where a normal interval collapses (all right, all
wrong): Wilson's score interval (Wilson 1927, JASA 22) on the effective number of problems,
as surveys do with clustered answers (Kott and Carr 1997, J. Official Statistics 13).
Coverage by simulation stands in `docs/bench.md`. Closed form: no seed, no resampling.
Differences of two are evals' matter.
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
