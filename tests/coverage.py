"""Coverage: how often 95% intervals hold the truth, for docs/statistics.md. `make coverage` (two minutes).

One sample a problem is calculated exactly: every outcome with its binomial or trinomial chance. Several samples a
problem are simulated through the functions a bench calls: a problem's chance of being solved comes from Beta with mean
p and a correlation of `TIE` between its samples, or from three kinds of problems (never, seldom, always solved). The
other checkpoint of a pair has the same chances on `SHARED` of the problems, moved to its own mean, and its own on the
others. Does not measure what training seeds do.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

from distill.intervals import Z95, Interval, mean_interval, paired_difference, wilson
from evals.intervals import mcnemar_exact, smallest
from tests.other_intervals import beta_binomial, bootstrap, effective, whole_problems

SIZES, TRUTHS = (30, 164, 500, 1319), (0.01, 0.5, 0.99)
SAMPLES = (4, 16)
TIE, SHARED = 0.5, 0.6
GAINS = (0.0, 0.05)
Ends = Sequence[tuple[float, float]]


def main() -> None:
    """Print every table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000, help="simulated benches a cell")
    draws: int = parser.parse_args().draws
    print("## One sample a problem, exact\n")
    table(("n", "p", *METHODS, "attainable"), one_sample())
    print("\n### Over p from 0.005 to 0.995: mean, least\n")
    table(("n", *METHODS), over_all())
    print(f"\n## Several samples a problem, {draws:,} benches a cell (width)\n")
    table(("samples", "n", *(f"p {p}" for p in TRUTHS), "three kinds"), several(draws))
    print(f"\n## Beside what was not chosen, {draws // 2:,} benches a cell (width)\n")
    table(("world", "n", "in use", *(name.replace("_", " ") for name in OTHERS)), beside(draws // 2))
    print("\n## Paired difference, one sample a problem, exact (width)\n")
    table(("n", *(f"p {p}, d {d}" for p in TRUTHS for d in GAINS)), pairs_of_one())
    print(f"\n## Paired difference, several samples a problem, {draws:,} pairs a cell (width)\n")
    table(("samples", "n", *(f"p {p}, d {d}" for p in TRUTHS for d in GAINS)), pairs_of_several(draws))
    print("\n## Power: chance of seeing the difference called detectable, exact\n")
    table(("n", "flips", "detectable", "interval leaves out 0", "McNemar below 0.05"), power())


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    """As Markdown, a row as soon as it is there."""
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def one_sample() -> Iterator[Sequence[str]]:
    """Exact coverage of every method, and the attainable values around 95%."""
    for n in SIZES:
        for p in TRUTHS:
            yield str(n), str(p), *(percent(covered(method, n, p)) for method in METHODS), attainable(n, p)


def over_all() -> Iterator[Sequence[str]]:
    """Mean and least coverage over a grid of p."""
    grid = np.linspace(0.005, 0.995, 199)
    for n in SIZES:
        found = {method: [covered(method, n, p) for p in grid] for method in METHODS}
        yield str(n), *(f"{percent(float(np.mean(f)))}, {percent(min(f))}" for f in found.values())


def several(draws: int) -> Iterator[Sequence[str]]:
    """Coverage of `mean_interval` over shares of samples."""
    for k in SAMPLES:
        for n in SIZES:
            rng = np.random.default_rng(1)
            cells = []
            for p in TRUTHS:
                chance = rng.beta(*shape(p), (draws, n))
                cells.append(simulated([mean_interval(row) for row in rng.binomial(k, chance) / k], p))
            chance = rng.choice((0.0, 0.15, 1.0), p=(0.67, 0.1, 0.23), size=(draws, n))
            cells.append(simulated([mean_interval(row) for row in rng.binomial(k, chance) / k], 0.245))
            yield str(k), str(n), *cells


def beside(draws: int) -> Iterator[Sequence[str]]:
    """The interval in use and the others, where they come apart."""
    worlds = {
        "4 samples, p 0.01, correlation 0.5": (4, 0.01, 0.5),
        "4 samples, p 0.01, correlation 0.9": (4, 0.01, 0.9),
        "16 samples, p 0.01, correlation 0.1": (16, 0.01, 0.1),
        "16 samples, p 0.01, all problems alike": (16, 0.01, 0.0),
        "16 samples, three kinds": (16, 0.245, None),
    }
    for name, (k, truth, tie) in worlds.items():
        for n in (30, 164, 1319):
            rng = np.random.default_rng(3)
            if tie is None:
                chance = rng.choice((0.0, 0.15, 1.0), p=(0.67, 0.1, 0.23), size=(draws, n))
            else:
                chance = rng.beta(*shape(truth, tie), (draws, n)) if tie else np.full((draws, n), truth)
            rows = rng.binomial(k, chance) / k
            cells = [simulated([mean_interval(row) for row in rows], truth)]
            cells += [held([interval(row, k) for row in rows], truth) for interval in OTHERS.values()]
            yield name, str(n), *cells


def pairs_of_several(draws: int) -> Iterator[Sequence[str]]:
    """Coverage of `paired_difference` over shares of samples."""
    for k in SAMPLES:
        for n in SIZES:
            rng = np.random.default_rng(2)
            cells = []
            for p in TRUTHS:
                for gain in GAINS:
                    other = moved(p, gain)
                    a = rng.beta(*shape(p), (draws, n))
                    same = a * other / p if other <= p else 1 - (1 - a) * (1 - other) / (1 - p)
                    b = np.where(rng.random((draws, n)) < SHARED, same, rng.beta(*shape(other), (draws, n)))
                    left, right = rng.binomial(k, a) / k, rng.binomial(k, b) / k
                    found = [paired_difference(x, y) for x, y in zip(left, right, strict=True)]
                    cells.append(simulated(found, p - other))
            yield str(k), str(n), *cells


def pairs_of_one() -> Iterator[Sequence[str]]:
    """Exact coverage of `paired_difference` with one sample each: wins and losses are trinomial."""
    for n in SIZES:
        cells = []
        for p in TRUTHS:
            for gain in GAINS:
                won, lost = flips(p, moved(p, gain))
                chance, low, high = trinomial(n, won, lost)
                truth = won - lost
                held = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
                cells.append(f"{percent(float(chance[held].sum()))} ({float((chance * (high - low)).sum()):.3f})")
        yield str(n), *cells


def power() -> Iterator[Sequence[str]]:
    """How often a difference is seen that `smallest` calls detectable."""
    for n in SIZES:
        for share in (0.1, 0.2, 0.3):
            size = smallest(share, n)
            if size >= share:
                yield str(n), f"{share:.0%}", "none: more than all flips", "-", "-"
                continue
            chance, low, high = trinomial(n, (share + size) / 2, (share - size) / 2)
            won, lost = np.nonzero(chance > 1e-9)
            seen = sum(chance[w, x] for w, x in zip(won, lost, strict=True) if test(int(w), int(x)) < 0.05)
            apart = float(chance[(low > 0) | (high < 0)].sum())
            yield str(n), f"{share:.0%}", f"{size * 100:.1f} points", percent(apart), percent(float(seen))


def trinomial(n: int, won: float, lost: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chance of every (wins, losses), and the ends of its interval, as `paired_difference` computes them."""
    most = min(n, math.ceil(n * max(won, lost) + 12 * math.sqrt(n * max(won, lost)) + 12))
    w, x = np.meshgrid(np.arange(most + 1), np.arange(most + 1), indexing="ij")
    rest = n - w - x
    logs = np.array([math.lgamma(i + 1) for i in range(n + 1)])
    ways = logs[n] - logs[w] - logs[x] - logs[np.maximum(rest, 0)]
    chance = np.where(
        rest >= 0, np.exp(ways + w * math.log(won) + x * math.log(lost) + rest * math.log1p(-won - lost)), 0
    )
    mean, center = (w - x) / n, (w - x) / (n + 2)
    reach = Z95 * np.sqrt(np.maximum((w + x + 2) / (n + 2) - center**2, 0.0) / (n + 2))
    low, high = np.maximum(np.minimum(center - reach, mean), -1), np.minimum(np.maximum(center + reach, mean), 1)
    for wins, losses in ((0, 0), (3, 1)):
        a, b = [1] * wins + [0] * (n - wins), [0] * wins + [1] * losses + [0] * (n - wins - losses)
        found = paired_difference(a, b)
        assert np.allclose((found.low, found.high), (low[wins, losses], high[wins, losses])), "the same formula"
    return chance, low, high


def flips(p: float, other: float) -> tuple[float, float]:
    """Chances that only the first, and only the second, solves a problem."""
    square = TIE * p * (1 - p)  # variance of a problem's chance
    if other <= p:
        both = other / p * (p * p + square)
    else:
        both = p + other - 1 + (1 - other) / (1 - p) * ((1 - p) ** 2 + square)
    both = SHARED * both + (1 - SHARED) * p * other
    return p - both, other - both


def moved(p: float, gain: float) -> float:
    """The other checkpoint's mean: worse by `gain` only where there is no room above."""
    return p + gain if p < 0.9 else p - gain


def shape(p: float, tie: float = TIE) -> tuple[float, float]:
    """Beta's parameters for a mean and a correlation between samples."""
    spread = (1 - tie) / tie
    return p * spread, (1 - p) * spread


def simulated(found: Sequence[Interval], truth: float) -> str:
    return held([(one.low, one.high) for one in found], truth)


def held(found: Ends, truth: float) -> str:
    """Share that holds the truth, and the mean width."""
    low, high = np.array(found).T
    return f"{percent(float(((low <= truth) & (truth <= high)).mean()))} ({float((high - low).mean()):.3f})"


def covered(method: str, n: int, p: float) -> float:
    """Exact coverage of a binomial interval."""
    low, high = np.array(ends(method, n)).T
    return float(binomial(n, p)[(low <= p) & (p <= high)].sum())


def attainable(n: int, p: float) -> str:
    """The coverages nearest to 95% a method can have there: of the likeliest outcomes, one more each time."""
    sums = np.cumsum(np.sort(binomial(n, p))[::-1])
    place = int(np.searchsorted(sums, 0.95))
    return f"{percent(float(sums[place - 1]))}, {percent(float(sums[place]))}"


@cache
def ends(method: str, n: int) -> Ends:
    return [METHODS[method](x, n) for x in range(n + 1)]


def binomial(n: int, p: float) -> np.ndarray:
    x = np.arange(n + 1)
    logs = np.array([math.lgamma(i + 1) for i in range(n + 1)])
    return np.exp(logs[n] - logs[x] - logs[n - x] + x * math.log(p) + (n - x) * math.log1p(-p))


@cache
def test(only_a: int, only_b: int) -> float:
    return mcnemar_exact(only_a, only_b)


def wald(x: int, n: int) -> tuple[float, float]:
    p = x / n
    reach = Z95 * math.sqrt(p * (1 - p) / n)
    return p - reach, p + reach


def agresti_coull(x: int, n: int) -> tuple[float, float]:
    more = n + Z95**2
    p = (x + Z95**2 / 2) / more
    reach = Z95 * math.sqrt(p * (1 - p) / more)
    return p - reach, p + reach


def beta_quantile(a: float, b: float, q: float) -> float:
    """By halving, from the density on a fine grid in its angle."""
    angle = (np.arange(20_000) + 0.5) * (math.pi / 2 / 20_000)
    logs = (2 * a - 1) * np.log(np.sin(angle)) + (2 * b - 1) * np.log(np.cos(angle))
    below = np.cumsum(np.exp(logs - logs.max()))
    return float(np.sin(np.interp(q, below / below[-1], angle)) ** 2)


def jeffreys(x: int, n: int) -> tuple[float, float]:
    a, b = x + 0.5, n - x + 0.5
    return 0.0 if x == 0 else beta_quantile(a, b, 0.025), 1.0 if x == n else beta_quantile(a, b, 0.975)


def clopper_pearson(x: int, n: int) -> tuple[float, float]:
    low = 0.0 if x == 0 else beta_quantile(x, n - x + 1, 0.025)
    return low, 1.0 if x == n else beta_quantile(x + 1, n - x, 0.975)


METHODS: dict[str, Callable[[int, int], tuple[float, float]]] = {
    "Wilson": lambda x, n: wilson(x / n, n),
    "Jeffreys": jeffreys,
    "Clopper-Pearson": clopper_pearson,
    "Agresti-Coull": agresti_coull,
    "normal": wald,
}
"""Wilson is the one in use."""
OTHERS = {each.__name__: each for each in (bootstrap, effective, beta_binomial, whole_problems)}


def percent(share: float) -> str:
    return f"{share * 100:.1f}"


if __name__ == "__main__":
    main()
