"""Efficiency: what a policy scores at each size, and how many examples it needs for a given score.

Scores and differences are over problems: a problem's value is the mean over seeds and
samples, so intervals are clustered by question. They do not cover what other seeds would
give (two seeds cannot say), so the differences of each seed stand beside.
The price of a score is the first crossing of a policy's curve, straight between measured
sizes on a logarithmic axis, with a 95% range from resampling problems (percentile bootstrap,
Efron 1979). Nothing is extrapolated: a score may lie beyond the sizes tried, or below them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill.intervals import Interval, mean_interval, paired_difference
from distill.records import Record

RESAMPLES = 2000
"""Draws of the problems behind a range."""
NEVER = math.inf
"""Price of a score that no size reached."""


class Place(Record):
    """One cell of the grid: one student."""

    policy: str
    size: int
    seed: int


@dataclass(frozen=True, slots=True)
class Answers:
    """One student's answers, and what it learned from."""

    solved: Mapping[str, float]
    """By problem: share of its samples that are right."""
    tokens_per_answer: float
    tokens_per_example: float
    correct: float
    """Share of its examples whose verdict is `correct`."""
    problems: int
    """Different problems among its examples."""
    steps: int
    """Optimizer steps it took."""


class Compared(Record):
    """One policy at one size, over all seeds; fractions in [0, 1]."""

    policy: str
    size: int
    value: float
    """pass@1."""
    low: float
    high: float
    n: int
    """Problems of the exam."""
    by_seed: tuple[float, ...]
    difference: float
    """Less the baseline at the same size, problem by problem."""
    difference_low: float
    difference_high: float
    difference_by_seed: tuple[float, ...]
    tokens_per_example: float
    """In student tokens, prompt included."""
    correct: float
    problems: float
    tokens_per_answer: float


class Price(Record):
    """Examples a policy needs for the target score; None where the largest size does not reach it."""

    policy: str
    target: float
    examples: float | None
    low: float | None
    high: float | None
    smallest: int
    """An `examples` or bound of this many is reached by the smallest size already: at most so many."""
    largest: int


def compare(answers: Mapping[Place, Answers], baseline: str) -> list[Compared]:
    """Every policy at every size beside the baseline at the same size, in the order of `answers`."""
    return [
        _one(policy, size, answers, baseline)
        for policy, size in dict.fromkeys((place.policy, place.size) for place in answers)
    ]


def prices(answers: Mapping[Place, Answers], baseline: str, target: float | None) -> list[Price]:
    """What each policy needs for `target`, or else for the baseline's score at its largest size; [] for one size.

    The baseline's score is drawn again with the problems, so its range has the uncertainty of both.
    """
    policies = list(dict.fromkeys(place.policy for place in answers))
    sizes = sorted({place.size for place in answers})
    if len(sizes) == 1:
        return []
    curves = {policy: np.array([_values(answers, policy, size) for size in sizes]) for policy in policies}
    n = curves[baseline].shape[1]
    weights_RN = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n  # R resamples, N problems
    drawn = {policy: weights_RN @ values_SN.T for policy, values_SN in curves.items()}  # S sizes
    found = []
    for policy in policies:
        aims = np.full(RESAMPLES, target) if target is not None else drawn[baseline][:, -1]
        aim = target if target is not None else float(curves[baseline][-1].mean())
        crossings = [crossing(sizes, scores, aim_) for scores, aim_ in zip(drawn[policy], aims, strict=True)]
        low, high = np.quantile(crossings, (0.025, 0.975), method="inverted_cdf")
        middle = crossing(sizes, curves[policy].mean(axis=1), aim)
        cells = [None if value == NEVER else round(float(value), 1) for value in (middle, low, high)]
        found.append(
            Price(
                policy=policy,
                target=aim,
                examples=cells[0],
                low=cells[1],
                high=cells[2],
                smallest=sizes[0],
                largest=sizes[-1],
            )
        )
    return found


def crossing(sizes: Sequence[int], scores: Sequence[float] | np.ndarray, target: float) -> float:
    """Least number of examples at which the curve is at `target`: the smallest size at once, `NEVER` not at all."""
    if scores[0] >= target:
        return float(sizes[0])
    for index in range(1, len(sizes)):
        if scores[index] >= target:
            share = (target - scores[index - 1]) / (scores[index] - scores[index - 1])
            return float(sizes[index - 1] * (sizes[index] / sizes[index - 1]) ** share)
    return NEVER


def _one(policy: str, size: int, answers: Mapping[Place, Answers], baseline: str) -> Compared:
    mine, theirs = _cells(answers, policy, size), _cells(answers, baseline, size)
    ours, others = _values(answers, policy, size), _values(answers, baseline, size)
    score = mean_interval(ours)
    difference = paired_difference(ours, others) if policy != baseline else Interval(0.0, 0.0, 0.0, score.n)
    by_seed = tuple(_mean(list(cell.solved.values())) for cell in mine)
    base_by_seed = tuple(_mean(list(cell.solved.values())) for cell in theirs)
    return Compared(
        policy=policy,
        size=size,
        value=score.value,
        low=score.low,
        high=score.high,
        n=score.n,
        by_seed=by_seed,
        difference=difference.value,
        difference_low=difference.low,
        difference_high=difference.high,
        difference_by_seed=tuple(a - b for a, b in zip(by_seed, base_by_seed, strict=True)),
        tokens_per_example=_mean([cell.tokens_per_example for cell in mine]),
        correct=_mean([cell.correct for cell in mine]),
        problems=_mean([cell.problems for cell in mine]),
        tokens_per_answer=_mean([cell.tokens_per_answer for cell in mine]),
    )


def _cells(answers: Mapping[Place, Answers], policy: str, size: int) -> list[Answers]:
    return [found for place, found in answers.items() if (place.policy, place.size) == (policy, size)]


def _values(answers: Mapping[Place, Answers], policy: str, size: int) -> list[float]:
    """Mean over seeds of each problem, problems in order of their ids."""
    cells = _cells(answers, policy, size)
    return [_mean([cell.solved[problem] for cell in cells]) for problem in sorted(cells[0].solved)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
