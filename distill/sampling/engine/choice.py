"""Choose the next token of every row at once, from logits and one uniform number a row.

The uniform is a counter-based hash of (seed, place), after SplitMix64 (Steele, Lea and
Flood 2014), and the token is the inverse of the cumulative distribution in vocabulary
order: a row's choice never depends on the rows beside it. Filters follow the order of
transformers: temperature, top-k, top-p over what top-k left, min-p. Uniforms have 24 bits,
so a token rarer than 6e-8 is drawn at the wrong rate. Below `COLDEST` a temperature is 0.
"""

import torch
from torch import Tensor

# B rows, V vocabulary

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
UNIFORM_BITS = 24
"""As many as a float32 in [0.5, 1) holds, so that a uniform is never rounded up to 1."""
COLDEST = 1e-30
"""A logit divided by less leaves float32; at any such temperature the likeliest token has all the probability."""

PENALTIES = (0.01, 100.0)
"""Repetition penalties that leave any model's logits finite."""


def choose(
    logits_BV: Tensor, uniform_B: Tensor, temperature_B: Tensor, top_k_B: Tensor, top_p_B: Tensor, min_p_B: Tensor
) -> Tensor:
    """Token ids (B,). Rows of temperature 0 take the likeliest token. Logits are finite, or -inf."""
    greedy_B = temperature_B < COLDEST
    warmth_B = torch.where(greedy_B, 1.0, temperature_B)
    probs_BV = (logits_BV / warmth_B[:, None]).softmax(-1)
    if bool(((top_k_B > 0) | (top_p_B < 1) | (min_p_B > 0)).any()):
        probs_BV = keep_likely(probs_BV, top_k_B, top_p_B, min_p_B)
    drawn_B = invert(probs_BV, uniform_B)
    if bool(greedy_B.any()):
        return torch.where(greedy_B, logits_BV.argmax(-1), drawn_B)
    return drawn_B


def penalize(logits_BV: Tensor, seen_BV: Tensor, penalty_B: Tensor) -> Tensor:
    """Make tokens that prompt or completion hold less likely (CTRL, arXiv 1909.05858, section 4.1).

    As transformers does it: a negative logit is multiplied by the penalty, another divided.
    """
    penalty_B1 = penalty_B[:, None]
    return torch.where(seen_BV, torch.where(logits_BV < 0, logits_BV * penalty_B1, logits_BV / penalty_B1), logits_BV)


def keep_likely(probs_BV: Tensor, top_k_B: Tensor, top_p_B: Tensor, min_p_B: Tensor) -> Tensor:
    """Zero what the filters drop; the rest is not rescaled. The likeliest token always stays."""
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(probs_BV.shape[-1], device=probs_BV.device)
    kept_BV = (rank_V < top_k_B[:, None]) | (top_k_B[:, None] == 0)
    left_BV = sorted_BV * kept_BV
    before_BV = left_BV.cumsum(-1) - left_BV
    reach_B1 = top_p_B[:, None] * left_BV.sum(-1, keepdim=True)
    kept_BV &= (before_BV < reach_B1) | (top_p_B[:, None] >= 1)
    kept_BV &= sorted_BV >= min_p_B[:, None] * sorted_BV[:, :1]
    kept_BV[:, 0] = True
    return torch.zeros_like(probs_BV).scatter_(-1, order_BV, sorted_BV * kept_BV)


def invert(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token at which the running sum of probabilities first exceeds uniform x total."""
    sums_BV = probs_BV.cumsum(-1)
    reach_B1 = uniform_B[:, None] * sums_BV[:, -1:]
    return torch.searchsorted(sums_BV, reach_B1, right=True).squeeze(-1)


def logprobs_of(logits_BV: Tensor, ids_B: Tensor, total_B: Tensor) -> Tensor:
    """Natural log-probability (B,) of each token under the unmodified distribution; `total_B` is its logsumexp."""
    return logits_BV.gather(-1, ids_B[:, None]).squeeze(-1) - total_B


def row_key(seed: int) -> int:
    """A seed as a signed 64-bit key; neighboring seeds give unrelated keys."""
    return _signed(_mix_int((seed + 1) * GOLDEN))


def uniforms(key_B: Tensor, place_B: Tensor) -> Tensor:
    """One float32 in [0, 1) a row, for the `place`-th token of a row with this key."""
    z_B = key_B + (place_B + 1) * _signed(GOLDEN)  # int64 arithmetic wraps, as the hash wants
    z_B = (z_B ^ _shift(z_B, 30)) * _signed(MIX_1)
    z_B = (z_B ^ _shift(z_B, 27)) * _signed(MIX_2)
    z_B = z_B ^ _shift(z_B, 31)
    return _shift(z_B, 64 - UNIFORM_BITS).to(torch.float32) * 2.0**-UNIFORM_BITS


def _shift(z_B: Tensor, bits: int) -> Tensor:
    """Shift right without copying the sign."""
    return (z_B >> bits) & ((1 << (64 - bits)) - 1)


def _mix_int(z: int) -> int:
    mask = (1 << 64) - 1
    z &= mask
    z = ((z ^ (z >> 30)) * MIX_1) & mask
    z = ((z ^ (z >> 27)) * MIX_2) & mask
    return z ^ (z >> 31)


def _signed(value: int) -> int:
    """The same 64 bits as the signed integer torch wants."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
