"""Intervals of a mean of shares that were measured and not chosen; `tests.coverage` tables them beside the one in use.

- percentile bootstrap over problems (Efron 1979): collapses near 0 and 1;
- Wilson's interval on the effective number of problems (Kott and Carr 1997), two problems imagined: holds everywhere,
  too wide where samples differ within problems and the mean is near 0 or 1;
- beta-binomial posterior (Bowyer et al. 2025, arXiv 2503.01747, section 3.2), integrated on a grid with Jeffreys' prior
  on the mean: narrowest where chances are beta distributed, wrong where they are not;
- the Bayesian bootstrap with a whole problem at each end instead of half a one.
"""

import math
from functools import cache

import numpy as np

from distill.intervals import wilson

MEANS, TIES = 600, 28
TIE_PRIOR = 0.5
"""The correlation's prior is Beta(1, this)."""
Range = tuple[float, float]


def bootstrap(shares: np.ndarray, samples: int) -> Range:
    values, times = np.unique(shares, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(shares.size, times / shares.size, size=2000) @ values / shares.size
    return _range(drawn)


def whole_problems(shares: np.ndarray, samples: int) -> Range:
    values, times = np.unique(np.append(shares, (0.0, 1.0)), return_counts=True)
    weights = np.random.default_rng(0).standard_gamma(times, (2000, times.size))
    return _range(weights @ values / weights.sum(axis=1))


def effective(shares: np.ndarray, samples: int) -> Range:
    padded = np.append(shares, (0.0, 1.0))
    middle = float(padded.mean())
    n = min(shares.size * middle * (1 - middle) / float(padded.var()), float(shares.size * samples))
    return wilson(float(shares.mean()), n)


def beta_binomial(shares: np.ndarray, samples: int) -> Range:
    chance, prior, fit = _grid(samples)
    times = np.bincount(np.rint(shares * samples).astype(int), minlength=samples + 1)
    weight = times @ fit + prior
    weight = np.exp(weight - weight.max())
    below = (np.cumsum(weight) - weight / 2) / weight.sum()
    low, high = np.interp((0.025, 0.975), below, chance)
    return 0.0 if not shares.any() else float(low), 1.0 if (shares == 1).all() else float(high)


@cache
def _grid(samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, log prior and log chance of each count, at every point; points in the order of their mean."""
    means = np.sin((np.arange(MEANS) + 0.5) * (math.pi / 2 / MEANS)) ** 2
    ties = 1 / (1 + np.exp(-np.linspace(-6, 5, TIES)))
    mean, tie = (grid.ravel() for grid in np.meshgrid(means, ties, indexing="ij"))
    spread = (1 - tie) / tie
    rising = [
        np.concatenate([[np.zeros_like(mean)], np.cumsum([np.log(start + j) for j in range(samples)], axis=0)])
        for start in (mean * spread, (1 - mean) * spread, spread)
    ]
    fit = rising[0] + rising[1][::-1] - rising[2][-1]
    return mean, np.log(tie) + TIE_PRIOR * np.log1p(-tie), fit


def _range(drawn: np.ndarray) -> Range:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
