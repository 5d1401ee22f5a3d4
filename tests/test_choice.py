"""Token choice against a plain definition, row by row in Python, and against expected frequencies."""

import math

import pytest
import torch
from transformers.generation import logits_process as theirs

from distill.sampling.engine.choice import (
    UNIFORM_BITS,
    choose,
    invert,
    keep_likely,
    logprobs_of,
    penalize,
    row_key,
    uniforms,
)


def plain_filter(probs: list[float], top_k: int, top_p: float, min_p: float) -> list[float]:
    """The definition: walk from the likeliest token down."""
    order = sorted(range(len(probs)), key=lambda token: -probs[token])
    if top_k:
        order = order[:top_k]
    total = sum(probs[token] for token in order)
    kept, mass = [], 0.0
    for token in order:
        if not kept or mass < top_p * total:
            kept.append(token)
            mass += probs[token]
    best = probs[order[0]]
    return [probs[token] if token in kept and probs[token] >= min_p * best else 0.0 for token in range(len(probs))]


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        pytest.param(0, 1.0, 0.0, id="no filter"),
        pytest.param(1, 1.0, 0.0, id="top-k 1 is greedy"),
        pytest.param(3, 1.0, 0.0, id="top-k"),
        pytest.param(99, 1.0, 0.0, id="top-k beyond the vocabulary"),
        pytest.param(0, 0.5, 0.0, id="top-p"),
        pytest.param(0, 1e-9, 0.0, id="top-p keeps the likeliest"),
        pytest.param(4, 0.6, 0.0, id="top-p counts only what top-k left"),
        pytest.param(0, 1.0, 0.2, id="min-p"),
        pytest.param(0, 1.0, 1.0, id="min-p 1 keeps the likeliest"),
        pytest.param(5, 0.9, 0.1, id="all three"),
    ],
)
def test_filters_keep_what_the_definition_keeps(top_k: int, top_p: float, min_p: float) -> None:
    torch.manual_seed(0)
    probs_BV = (torch.randn(20, 11, dtype=torch.float64) * 2).softmax(-1)
    got = keep_likely(
        probs_BV, torch.full((20,), top_k), torch.full((20,), top_p, dtype=torch.float64), torch.full((20,), min_p)
    )
    expected = [plain_filter(row, top_k, top_p, min_p) for row in probs_BV.tolist()]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0)


def test_rows_are_filtered_by_their_own_settings() -> None:
    probs_BV = torch.tensor([[0.5, 0.3, 0.2]] * 3)
    got = keep_likely(probs_BV, torch.tensor([0, 1, 2]), torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 0.0]))
    assert (got > 0).sum(-1).tolist() == [3, 1, 2]


def test_top_k_keeps_exactly_k_of_equals() -> None:
    probs_BV = torch.full((1, 8), 0.125)
    got = keep_likely(probs_BV, torch.tensor([3]), torch.tensor([1.0]), torch.tensor([0.0]))
    assert int((got > 0).sum()) == 3


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.5, 0), (2.0, 3)])
def test_draws_follow_the_distribution(temperature: float, top_k: int) -> None:
    n = 40_000
    logits_V = torch.tensor([1.0, 0.0, -1.0, 2.0, -3.0])
    key_B = torch.full((n,), row_key(7))
    drawn = choose(
        logits_V.expand(n, -1),
        uniforms(key_B, torch.arange(n)),
        torch.full((n,), temperature),
        torch.full((n,), top_k),
        torch.ones(n),
        torch.zeros(n),
    )
    probs = (logits_V / temperature).softmax(-1)
    if top_k:
        probs = torch.where(probs >= probs.topk(top_k).values[-1], probs, 0.0)
        probs = probs / probs.sum()
    shares = torch.bincount(drawn, minlength=5) / n
    for share, prob in zip(shares.tolist(), probs.tolist(), strict=True):
        assert abs(share - prob) <= 4 * math.sqrt(prob * (1 - prob) / n)


def test_greedy_and_warm_rows_live_side_by_side() -> None:
    logits_BV = torch.tensor([[0.0, 1.0, 0.9], [0.0, 1.0, 0.9]])
    ones, none = torch.ones(2), torch.zeros(2)
    drawn = choose(logits_BV, torch.tensor([0.99, 0.99]), torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), ones, none)
    assert drawn.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("probs", "uniform", "token"),
    [
        pytest.param([0.0, 0.5, 0.5], 0.0, 1, id="zero never draws an impossible first token"),
        pytest.param([0.5, 0.5, 0.0], 1 - 2.0**-UNIFORM_BITS, 1, id="the largest uniform stays possible"),
        pytest.param([0.5, 0.0, 0.5], 0.5, 2, id="a boundary belongs to the next possible token"),
        pytest.param([0.1, 0.1, 0.0], 0.75, 1, id="filtered rows need no rescaling"),
    ],
)
def test_the_inverse_never_draws_an_impossible_token(probs: list[float], uniform: float, token: int) -> None:
    assert invert(torch.tensor([probs]), torch.tensor([uniform])).tolist() == [token]


def test_the_largest_uniform_is_below_any_total() -> None:
    totals = torch.cat([torch.rand(20_000) + 0.01, torch.tensor([0.5, 1.0, 1.0 + 2.0**-23, 1.0 - 2.0**-24])])
    assert bool((totals * torch.tensor(1 - 2.0**-UNIFORM_BITS) < totals).all())


def test_uniforms_are_even_and_unrelated_between_neighboring_seeds_and_places() -> None:
    keys = torch.tensor([row_key(seed) for seed in range(400)])
    table = uniforms(keys[:, None], torch.arange(400))
    assert float(table.min()) >= 0
    assert float(table.max()) < 1
    counts = torch.histc(table, bins=20, min=0, max=1)
    assert float(((counts - 8000) ** 2 / 8000).sum()) < 45  # chi-square, 19 degrees: p < 0.001 beyond 43.8
    for other in (table.roll(1, 0), table.roll(1, 1)):
        correlation = torch.corrcoef(torch.stack([table.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.01


def test_logprobs_are_those_of_the_unmodified_distribution() -> None:
    logits_BV = torch.randn(3, 7) * 5
    ids_B = torch.tensor([0, 6, 3])
    expected = logits_BV.log_softmax(-1)[torch.arange(3), ids_B]
    torch.testing.assert_close(logprobs_of(logits_BV, ids_B, logits_BV.logsumexp(-1)), expected)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3])
def test_repetition_is_penalized_as_transformers_does(penalty: float) -> None:
    torch.manual_seed(0)
    logits_BV, ids_BT = torch.randn(5, 11) * 3, torch.randint(11, (5, 6))
    seen_BV = torch.zeros(5, 11, dtype=torch.bool).scatter_(1, ids_BT, True)
    expected = theirs.RepetitionPenaltyLogitsProcessor(penalty)(ids_BT, logits_BV.clone())
    got = penalize(logits_BV, seen_BV, torch.full((5,), penalty))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(0.7, 0, 1.0, 0.0), (1.0, 4, 1.0, 0.0), (1.0, 0, 0.7, 0.0), (1.0, 0, 1.0, 0.2), (1.5, 7, 0.8, 0.1)],
)
def test_the_distribution_is_the_one_transformers_samples_from(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    torch.manual_seed(0)
    logits_BV = torch.randn(50, 17) * 2
    warpers: list[theirs.LogitsProcessor] = [theirs.TemperatureLogitsWarper(temperature)]
    if top_k:
        warpers.append(theirs.TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(theirs.TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(theirs.MinPLogitsWarper(min_p))
    expected = theirs.LogitsProcessorList(warpers)(torch.zeros(50, 0, dtype=torch.int64), logits_BV.clone()).softmax(-1)
    probs_BV = (logits_BV / temperature).softmax(-1)
    kept_BV = keep_likely(probs_BV, torch.full((50,), top_k), torch.full((50,), top_p), torch.full((50,), min_p))
    torch.testing.assert_close(kept_BV / kept_BV.sum(-1, keepdim=True), expected, rtol=1e-5, atol=1e-6)
