"""Rotary positions with YaRN (arXiv 2104.09864; 2309.00071).

Angles are kept as complex unit numbers in float32 whatever the weights' dtype. With
mscale == mscale_all_dim, as DeepSeek publishes, they keep length 1 and YaRN's
temperature enters the softmax scale alone (DeepSeek-V2, arXiv 2405.04434, appendix).
Does not grow with the sequence: angles are computed for the positions asked for.
"""

import math
from typing import Any

import torch
from torch import Tensor

from teacher.config import TeacherConfig

# N tokens, H heads, R rotated width, P = R/2 pairs


class Rotary:
    """Angles of one configuration, not module state: the same on every device, also for a model built on meta."""

    def __init__(self, config: TeacherConfig) -> None:
        parameters = config.rope_parameters or {}
        self.interleave = config.rope_interleave
        self.scale = 1.0
        self.frequencies_P = _frequencies(config.qk_rope_head_dim, parameters["rope_theta"])
        if parameters["rope_type"] == "yarn":
            factor = _factor(config)
            self.scale = _length(parameters, factor)
            self.frequencies_P = _stretched(self.frequencies_P, config.qk_rope_head_dim, parameters, factor)

    def turns(self, positions_N: Tensor) -> Tensor:
        """Complex64 (N, P): one rotation a pair."""
        frequencies_P = self.frequencies_P.to(positions_N.device)
        angles_NP = positions_N[:, None].to(torch.float32) * frequencies_P
        return torch.polar(torch.full_like(angles_NP, self.scale), angles_NP)


def rotate_tail(x: Tensor, turns_NP: Tensor, interleave: bool) -> Tensor:
    """Copy of `x` (N, H, width) whose last R columns of each head are rotated by its token's turns."""
    rotated: Tensor = _RotateTail.apply(x, turns_NP, interleave)
    return rotated


class _RotateTail(torch.autograd.Function):
    """Written by hand because slicing and joining cost several times the rotation on a CPU."""

    @staticmethod
    def forward(ctx, x, turns_NP, interleave):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(turns_NP)
        ctx.interleave = interleave
        return turn_in_place(x.clone(memory_format=torch.contiguous_format), turns_NP, interleave)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        (turns_NP,) = ctx.saved_tensors
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        return turn_in_place(gradient, turns_NP.conj(), ctx.interleave), None, None


def turn_in_place(x: Tensor, turns_NP: Tensor, interleave: bool) -> Tensor:
    """Rotate the last R columns of each head of `x` (N, H, width); no gradient."""
    width = 2 * turns_NP.shape[-1]
    tail = x[..., -width:]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32  # the angles' precision, never less
    pairs = tail.unflatten(-1, (-1, 2)) if interleave else tail.unflatten(-1, (2, -1)).transpose(-1, -2)
    complex_pairs = torch.view_as_complex(pairs.to(wide).contiguous())
    tail.copy_(_unpaired(torch.view_as_real(complex_pairs * turns_NP[:, None].to(complex_pairs.dtype)), interleave))
    return x


def softmax_scale(config: TeacherConfig) -> float:
    """1/sqrt(query width), times YaRN's squared temperature where it is asked for."""
    scale = float(config.qk_head_dim**-0.5)
    parameters = config.rope_parameters or {}
    if parameters.get("rope_type") == "yarn" and parameters.get("mscale_all_dim"):
        scale *= _mscale(_factor(config), parameters["mscale_all_dim"]) ** 2
    return scale


def _unpaired(pairs: Tensor, interleave: bool) -> Tensor:
    return pairs.flatten(-2) if interleave else pairs.transpose(-1, -2).flatten(-2)


def _frequencies(width: int, theta: float) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width)


def _factor(config: TeacherConfig) -> float:
    parameters = config.rope_parameters or {}
    factor = parameters.get("factor")
    return float(factor or config.max_position_embeddings / parameters["original_max_position_embeddings"])


def _mscale(factor: float, weight: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _length(parameters: dict[str, Any], factor: float) -> float:
    """YaRN's temperature as a length of the rotation (arXiv 2309.00071, section 3.4)."""
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    mscale, all_dim = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return _mscale(factor, mscale) / _mscale(factor, all_dim) if mscale and all_dim else _mscale(factor)


def _stretched(frequencies_P: Tensor, width: int, parameters: dict[str, Any], factor: float) -> Tensor:
    """Frequencies of few turns over the original context are divided by the factor (arXiv 2309.00071, eq. 23)."""
    context, theta = parameters["original_max_position_embeddings"], parameters["rope_theta"]

    def pair_with(turns: float) -> float:
        return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(parameters.get("beta_fast") or 32), pair_with(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    high = high + 0.001 if high == low else high
    pairs_P = torch.arange(width // 2, dtype=torch.float32, device="cpu")
    stretched_P = ((pairs_P - low) / (high - low)).clamp(0, 1)
    return frequencies_P / factor * stretched_P + frequencies_P * (1 - stretched_P)
