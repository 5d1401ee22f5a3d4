import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.intervals import Interval, mean_interval, paired_difference
from evals.intervals import detectable, mcnemar_exact, needed, pass_at_k, smallest


@pytest.mark.parametrize(
    ("samples", "correct", "k"), [(1, 0, 1), (4, 1, 2), (5, 3, 3), (6, 6, 1), (6, 5, 2), (7, 2, 7)]
)
def test_pass_at_k_counts_every_choice_of_k_samples(samples: int, correct: int, k: int) -> None:
    draws = list(combinations([True] * correct + [False] * (samples - correct), k))
    assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_stays_finite_with_many_samples() -> None:
    assert pass_at_k(100_000, 1, 1) == pytest.approx(1e-5)
    assert 0.999 < pass_at_k(100_000, 50_000, 64) <= 1.0


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 1, 5), (4, 5, 1), (4, -1, 1), (4, 1, 0)])
def test_pass_at_k_refuses_what_it_cannot_estimate(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match=r"samples|correct"):
        pass_at_k(samples, correct, k)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        pytest.param(81, 263, 0.2553, 0.3662, id="Newcombe 1998a, table I"),
        pytest.param(15, 148, 0.0624, 0.1605, id="Newcombe 1998a, table I"),
        pytest.param(0, 20, 0.0, 0.1611, id="none right still leaves room above"),
        pytest.param(29, 29, 0.8830, 1.0, id="all right still leaves room below"),
    ],
)
def test_one_sample_a_problem_gives_the_published_wilson_interval(right: int, n: int, low: float, high: float) -> None:
    found = mean_interval([1.0] * right + [0.0] * (n - right))
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert (found.value, found.n) == (right / n, n)


def test_repeating_a_sample_adds_no_certainty() -> None:
    """Every problem always or never solved: sixteen samples say no more than one."""
    once, often = mean_interval([1.0] * 12 + [0.0] * 18), mean_interval([15 / 16] * 12 + [0.0] * 18)
    assert often.high - often.low > 0.9 * (once.high - once.low)


def test_samples_that_differ_within_a_problem_add_certainty() -> None:
    once, often = mean_interval([1.0] * 15 + [0.0] * 15), mean_interval([0.25, 0.5, 0.75] * 10)
    assert often.high - often.low < 0.6 * (once.high - once.low)


def test_an_interval_of_shares_does_not_collapse_at_the_ends() -> None:
    """One sample in 480 was right: a bootstrap without a prior would end at 0.6%."""
    found = mean_interval([1 / 16] + [0.0] * 29)
    assert found.low < 0.002
    assert 0.05 < found.high < 0.12


def test_right_and_wrong_exchanged_turn_the_interval_around() -> None:
    values = [0.0] * 20 + [0.25] * 5 + [1.0] * 10
    found, turned = mean_interval(values), mean_interval([1 - value for value in values])
    assert (found.low, found.high) == (
        pytest.approx(1 - turned.high, abs=0.01),
        pytest.approx(1 - turned.low, abs=0.01),
    )


@pytest.mark.parametrize("values", [[], [1.5], [float("nan")], [-0.1, 0.5]])
def test_an_interval_refuses_values_that_are_no_fractions(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"problem|lie in"):
        mean_interval(values)


def test_paired_difference_is_the_bonett_price_interval() -> None:
    """Worked by hand for 21 pairs, 1 won by a alone and 7 by b alone: (2 - 8) / 23 and its adjusted Wald reach."""
    found = paired_difference([1, 1] + [0] * 19, [1, 0] + [1] * 7 + [0] * 12)
    reach = 1.959964 * math.sqrt((10 / 23 - (6 / 23) ** 2) / 23)
    assert found.value == pytest.approx(-6 / 21)
    assert (found.low, found.high) == (pytest.approx(-6 / 23 - reach), pytest.approx(-6 / 23 + reach))


def test_pairing_uses_the_shared_problems() -> None:
    """The same two accuracies are told apart when one checkpoint solves a superset, and not when they cross."""
    superset = paired_difference([1] * 60 + [0] * 40, [1] * 50 + [0] * 50)
    crossing = paired_difference([1] * 60 + [0] * 40, [0] * 50 + [1] * 50)
    assert superset.value == crossing.value == pytest.approx(0.1)
    assert superset.low > 0 > crossing.low


def test_no_difference_seen_is_not_no_difference() -> None:
    found = paired_difference([1] * 50 + [0] * 50, [1] * 50 + [0] * 50)
    assert found.low < -0.02
    assert found.high > 0.02


def test_paired_difference_changes_sign_with_its_arguments() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 5, 40) / 4, rng.integers(0, 5, 40) / 4
    forward, back = paired_difference(a, b), paired_difference(b, a)
    assert (forward.low, forward.high) == pytest.approx((-back.high, -back.low))


def test_paired_difference_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        paired_difference([1, 0], [1])


def test_differences_in_parts_of_a_problem_are_padded_by_their_own_size() -> None:
    """By hand: two differences of a quarter, so imagined pairs of (2/16 + 1) / 3 in the square."""
    a, b = [0.5, 0.5] + [0.25] * 28, [0.25] * 30
    found, imagined = paired_difference(a, b), (2 / 16 + 1) / 3
    center, square = 0.5 / 32, (2 / 16 + 2 * imagined) / 32
    reach = 1.959964 * math.sqrt((square - center**2) / 32)
    assert (found.low, found.high) == (pytest.approx(center - reach), pytest.approx(center + reach))


@pytest.mark.parametrize("n", [164, 1319])
def test_a_difference_called_detectable_is_seen_four_times_of_five(n: int) -> None:
    size, share = smallest(0.2, n), 0.2
    rng = np.random.default_rng(5)
    rows = rng.multinomial(n, [(share + size) / 2, (share - size) / 2, 1 - share], size=2000)
    seen = np.mean([mcnemar_exact(int(won), int(lost)) < 0.05 for won, lost, _ in rows])
    assert 0.72 < seen < 0.82  # the exact test is a little shy (docs/statistics.md)


def test_needed_problems_and_smallest_difference_are_each_others_inverse() -> None:
    assert needed(0.2, smallest(0.2, 700)) == pytest.approx(700, abs=1)
    assert needed(0.2, 0.03) > needed(0.1, 0.03) > needed(0.1, 0.06)
    with pytest.raises(ValueError, match="above 0"):
        needed(0.2, 0.0)


def test_what_is_detectable_follows_from_how_two_checkpoints_differ() -> None:
    """Ten flips in a hundred, padded by one each way: 12 of 102 in the mean square."""
    a, b = [1] * 5 + [0] * 95, [0] * 5 + [1] * 5 + [0] * 90
    assert detectable(a, b) == pytest.approx(smallest(12 / 102, 100))
    assert detectable(a, a) < detectable(a, b)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (1, 7, 18 / 256), (7, 1, 18 / 256), (5, 5, 1.0), (0, 10, 2 / 1024), (2150, 2250, None)],
)
def test_mcnemar_is_the_exact_binomial_tail(only_a: int, only_b: int, p: float | None) -> None:
    found = mcnemar_exact(only_a, only_b)
    if p is None:  # normal approximation with continuity correction
        z = (abs(only_a - only_b) - 1) / math.sqrt(only_a + only_b)
        p = math.erfc(z / math.sqrt(2))
    assert found == pytest.approx(p, rel=0.02)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_an_interval_always_holds_its_value(values: list[float]) -> None:
    found = mean_interval(values)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    turned = paired_difference(values, values[::-1])
    assert -1.0 <= turned.low <= turned.value <= turned.high <= 1.0


# A small cut of `make coverage`, whose tables stand in docs/statistics.md. Problems have a chance of being solved drawn
# from Beta(a, b): 0.45, 0.45 is how reasoning models look (sure or lost), 0.1, 0.9 a hard benchmark, 19, 1 an easy one.
DRAWS = 400
WORLDS = [(0.45, 0.45), (0.1, 0.9), (19.0, 1.0)]
SIZES = [(30, 4), (164, 4), (164, 1)]


@pytest.mark.parametrize(("alpha", "beta"), WORLDS)
@pytest.mark.parametrize(("problems", "samples"), SIZES)
def test_the_interval_of_a_mean_covers_the_truth(alpha: float, beta: float, problems: int, samples: int) -> None:
    rng = np.random.default_rng(11)
    means = rng.binomial(samples, rng.beta(alpha, beta, (DRAWS, problems))) / samples
    assert coverage([mean_interval(row) for row in means], alpha / (alpha + beta)) >= 0.92


def test_the_interval_of_a_mean_assumes_no_shape() -> None:
    """Problems solved never, seldom or always: a beta-binomial posterior covers 85% of these, and 33% of 1,319."""
    rng = np.random.default_rng(11)
    chance = rng.choice((0.0, 0.15, 1.0), p=(0.67, 0.1, 0.23), size=(DRAWS, 164))
    assert coverage([mean_interval(row) for row in rng.binomial(16, chance) / 16], 0.245) >= 0.92


@pytest.mark.parametrize(("alpha", "beta"), WORLDS)
@pytest.mark.parametrize(("problems", "samples"), SIZES)
@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_the_interval_of_a_difference_covers_the_truth(
    alpha: float, beta: float, problems: int, samples: int, gain: float
) -> None:
    """b solves the same problems as a, and `gain` of what a leaves."""
    rng = np.random.default_rng(12)
    chance = rng.beta(alpha, beta, (DRAWS, problems))
    a = rng.binomial(samples, chance) / samples
    b = rng.binomial(samples, chance + gain * (1 - chance)) / samples
    pairs = zip(a, b, strict=True)
    assert coverage([paired_difference(y, x) for x, y in pairs], gain * beta / (alpha + beta)) >= 0.92


def coverage(found: list[Interval], truth: float) -> float:
    """Share of the intervals that hold the truth."""
    return sum(one.low <= truth <= one.high for one in found) / len(found)
