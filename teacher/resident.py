"""FP8 weights that stay FP8: made wide a tile at a time, at the moment they are multiplied.

DeepSeek-V3 (arXiv 2412.19437, section 3.3) publishes e4m3 matrices with one scale for every 128 x 128
block. Made wide on loading they would take twice the memory in bfloat16; here a linear layer makes
`TILE` rows wide at once and the experts one expert at once, into memory the next tile uses again. The
product runs in the activations' dtype, so the result is that of the wide matrix. Slow where arithmetic
is cheap: every call reads, scales and writes each weight it needs before multiplying. No FP8 arithmetic,
no quantized activations, no gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teacher.fp8 import BLOCK, SCALE, dequantize, scale_shape

# N tokens, D width, E experts, K experts a token, F expert width, M pairs of token and expert, r and c blocks

TILE = 8 * BLOCK
"""Rows of a linear layer made wide at once: 15 MB of bfloat16 at V3's width. Not tuned."""
FP8 = torch.float8_e4m3fn


class Fp8Linear(nn.Module):
    """`nn.Linear` over an e4m3 `weight` (rows, columns) and its `weight_scale_inv` (r, c)."""

    def __init__(self, columns: int, rows: int, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = columns, rows
        self.weight = _frozen(torch.empty(rows, columns, dtype=FP8))
        self.weight_scale_inv = _frozen(torch.empty(scale_shape((rows, columns))))
        self.bias = _frozen(torch.empty(rows)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., columns) -> (..., rows), in the dtype of `x`."""
        output = x.new_empty(*x.shape[:-1], self.out_features)
        for first in range(0, self.out_features, TILE):
            output[..., first : first + TILE] = F.linear(x, self._tile(first, TILE, x.dtype))
        return output if self.bias is None else output.add_(self.bias)

    def wide(self, dtype: torch.dtype) -> Tensor:
        """The whole matrix, made wide."""
        return self._tile(0, self.out_features, dtype)

    def _tile(self, first: int, rows: int, dtype: torch.dtype) -> Tensor:
        scale = self.weight_scale_inv[first // BLOCK : -(-(first + rows) // BLOCK)]
        return dequantize(self.weight[first : first + rows], scale, dtype)


class Fp8Experts(nn.Module):
    """Routed experts as e4m3 stacks `gate_proj`, `up_proj` (E, F, D) and `down_proj` (E, D, F) with their scales.

    Same arguments and result as `teacher.moe.Experts`; loads the published one-tensor-an-expert names.
    """

    def __init__(self, experts: int, width: int, inner: int) -> None:
        super().__init__()
        self.experts = experts
        for part, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
            self.register_parameter(f"{part}_proj", _frozen(torch.empty(experts, *shape, dtype=FP8)))
            self.register_parameter(f"{part}_proj{SCALE}", _frozen(torch.empty(experts, *scale_shape(shape))))
        self.register_load_state_dict_pre_hook(_stack_published)

    def forward(self, x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        """Sum over a token's experts (N, D): `teacher.kernels.reference.grouped_mlp`, one chosen expert at a time."""
        output_ND = torch.zeros_like(x_ND)
        for expert in chosen_NK.unique().tolist():
            token_M, choice_M = (chosen_NK == expert).nonzero(as_tuple=True)
            x_MD = x_ND.index_select(0, token_M)
            inner_MF = F.silu(F.linear(x_MD, self._wide("gate", expert, x_ND.dtype)))
            inner_MF.mul_(F.linear(x_MD, self._wide("up", expert, x_ND.dtype)))
            spoken_MD = F.linear(inner_MF, self._wide("down", expert, x_ND.dtype))
            weight_M1 = weights_NK[token_M, choice_M, None].to(spoken_MD.dtype)
            output_ND.index_add_(0, token_M, spoken_MD.mul_(weight_M1))
        return output_ND

    def _wide(self, part: str, expert: int, dtype: torch.dtype) -> Tensor:
        q_EXX, scale_Erc = getattr(self, f"{part}_proj"), getattr(self, f"{part}_proj{SCALE}")
        return dequantize(q_EXX[expert], scale_Erc[expert], dtype)


def wide_weight(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """A linear layer's matrix, made wide when it is kept in FP8."""
    if isinstance(module, Fp8Linear):
        return module.wide(dtype)
    assert isinstance(module, nn.Linear)
    return module.weight.detach()


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _stack_published(module: Fp8Experts, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for part in ("gate", "up", "down"):
        for ending in ("", SCALE):
            names = [f"{prefix}{expert}.{part}_proj.weight{ending}" for expert in range(module.experts)]
            if all(name in state for name in names):
                state[f"{prefix}{part}_proj{ending}"] = torch.stack([state.pop(name) for name in names])
