"""The experts' feed-forward in two Triton kernels over tokens sorted by expert.

The first gathers each tile's tokens, multiplies them by gate and up rows together and
applies SwiGLU before anything is written; the second multiplies by the down projection,
applies the routing weight and writes each row to its own place, so that the sum over a
token's experts has a fixed order and a repeat gives the same bits. The layout (tiles of
one expert's rows, an upper bound of tiles, unused ones leaving at once) follows the
grouped GEMMs of vLLM's and SGLang's fused_moe; no host synchronization.
`reference.grouped_mlp` is the specification and, for now, the backward pass.
Does not quantize, and does not use TMA, persistent programs or fp8.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from teacher.kernels import reference

# N tokens, D width, E experts, K experts a token, F expert width, M = N*K sorted rows

INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Under the interpreter bfloat16 arithmetic is garbage (triton issue 11584) and its stores
truncate: operands are widened after loading and intermediates kept in float32."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Tile sizes: rows, columns of the output, step over the inner dimension."""

    rows: int
    columns: int
    inner: int
    warps: int = 4
    stages: int = 3


@triton.jit
def _gate_up_kernel(
    x_ptr, weight_ptr, out_ptr, token_ptr, tile_expert_ptr, tile_row_ptr, end_ptr,
    D, F, E,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """out[row] = silu(gate x[token[row]]) * up x[token[row]] for one tile of one expert's rows."""
    tile = tl.program_id(0)
    expert = tl.load(tile_expert_ptr + tile)
    if expert < E:
        row = tl.load(tile_row_ptr + tile) + tl.arange(0, ROWS)
        row_ok = row < tl.load(end_ptr + expert)
        token = tl.load(token_ptr + row, mask=row_ok, other=0)
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        column_ok = column < F
        expert_ptr = weight_ptr + expert.to(tl.int64) * (2 * F * D)
        gate = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        up = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for start in range(0, D, INNER):
            inner = start + tl.arange(0, INNER)
            inner_ok = inner < D
            x = tl.load(
                x_ptr + token[:, None].to(tl.int64) * D + inner[None, :],
                mask=row_ok[:, None] & inner_ok[None, :], other=0.0,
            )  # fmt: skip
            weight_ok = inner_ok[:, None] & column_ok[None, :]
            gate_ptr = expert_ptr + column[None, :] * D + inner[:, None]
            w_gate = tl.load(gate_ptr, mask=weight_ok, other=0.0)
            w_up = tl.load(gate_ptr + F * D, mask=weight_ok, other=0.0)
            if WIDEN:
                x, w_gate, w_up = x.to(tl.float32), w_gate.to(tl.float32), w_up.to(tl.float32)
            gate = tl.dot(x, w_gate, gate, input_precision="ieee")
            up = tl.dot(x, w_up, up, input_precision="ieee")
        spoken = gate / (1.0 + tl.exp(-gate)) * up
        out = out_ptr + row[:, None].to(tl.int64) * F + column[None, :]
        tl.store(out, spoken.to(out_ptr.dtype.element_ty), mask=row_ok[:, None] & column_ok[None, :])


@triton.jit
def _down_kernel(
    inner_ptr, weight_ptr, routing_ptr, out_ptr, order_ptr, tile_expert_ptr, tile_row_ptr, end_ptr,
    D, F, E,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """out[order[row]] = routing weight * down inner[row] for one tile of one expert's rows."""
    tile = tl.program_id(0)
    expert = tl.load(tile_expert_ptr + tile)
    if expert < E:
        row = tl.load(tile_row_ptr + tile) + tl.arange(0, ROWS)
        row_ok = row < tl.load(end_ptr + expert)
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        column_ok = column < D
        expert_ptr = weight_ptr + expert.to(tl.int64) * (D * F)
        spoken = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for start in range(0, F, INNER):
            inner = start + tl.arange(0, INNER)
            inner_ok = inner < F
            a = tl.load(
                inner_ptr + row[:, None].to(tl.int64) * F + inner[None, :],
                mask=row_ok[:, None] & inner_ok[None, :], other=0.0,
            )  # fmt: skip
            weight = tl.load(
                expert_ptr + column[None, :] * F + inner[:, None],
                mask=inner_ok[:, None] & column_ok[None, :], other=0.0,
            )  # fmt: skip
            if WIDEN:
                a, weight = a.to(tl.float32), weight.to(tl.float32)
            spoken = tl.dot(a, weight, spoken, input_precision="ieee")
        place = tl.load(order_ptr + row, mask=row_ok, other=0)
        routing = tl.load(routing_ptr + place, mask=row_ok, other=0.0)
        out = out_ptr + place[:, None].to(tl.int64) * D + column[None, :]
        spoken = spoken * routing[:, None].to(tl.float32)
        tl.store(out, spoken.to(out_ptr.dtype.element_ty), mask=row_ok[:, None] & column_ok[None, :])


def grouped_mlp(x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    """`reference.grouped_mlp` by Triton; the backward pass runs the reference again.

    `x_ND` (N, D) float32, float16 or bfloat16: tokens. `weights_NK` (N, K) float32: routing
    weights. `chosen_NK` (N, K) int64: expert ids in [0, E). `gate_up_EGD` (E, 2F, D), x's
    dtype: gate rows, then up rows. `down_EDF` (E, D, F), x's dtype. Returns (N, D), x's dtype.
    """
    output: Tensor = _GroupedMLP.apply(x_ND, weights_NK, chosen_NK, gate_up_EGD, down_EDF)
    return output


class _GroupedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_ND, weights_NK, chosen_NK, gate_up_EGD, down_EDF):
        ctx.save_for_backward(x_ND, weights_NK, chosen_NK, gate_up_EGD, down_EDF)
        return _forward(x_ND.contiguous(), weights_NK, chosen_NK, gate_up_EGD.contiguous(), down_EDF.contiguous())

    @staticmethod
    def backward(ctx, gradient_ND):
        x_ND, weights_NK, chosen_NK, gate_up_EGD, down_EDF = ctx.saved_tensors
        inputs = [tensor.detach().requires_grad_() for tensor in (x_ND, weights_NK, gate_up_EGD, down_EDF)]
        with torch.enable_grad():
            output_ND = reference.grouped_mlp(inputs[0], inputs[1], chosen_NK, inputs[2], inputs[3])
        x_grad, weights_grad, gate_up_grad, down_grad = torch.autograd.grad(output_ND, inputs, gradient_ND)
        return x_grad, weights_grad, None, gate_up_grad, down_grad


def _forward(x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    (tokens, width), choices = x_ND.shape, chosen_NK.shape[1]
    experts, _, inner_width = down_EDF.shape
    rows = tokens * choices
    if rows == 0:
        return torch.zeros_like(x_ND)
    up_blocks, down_blocks = _blocks(rows // experts, inner_width, width), _blocks(rows // experts, width, inner_width)
    order_M = chosen_NK.flatten().argsort(stable=True)
    token_M = order_M // choices
    tiles, tile_expert, tile_row, end_E = _tiles(chosen_NK, experts, up_blocks.rows)
    kept = torch.float32 if INTERPRET else x_ND.dtype
    inner_MF = torch.empty(rows, inner_width, dtype=kept, device=x_ND.device)
    spoken_MD = torch.empty(rows, width, dtype=kept, device=x_ND.device)
    _gate_up_kernel[(tiles, triton.cdiv(inner_width, up_blocks.columns))](
        x_ND, gate_up_EGD, inner_MF, token_M, tile_expert, tile_row, end_E, width, inner_width, experts,
        up_blocks.rows, up_blocks.columns, up_blocks.inner, INTERPRET,
        num_warps=up_blocks.warps, num_stages=up_blocks.stages,
    )  # fmt: skip
    _down_kernel[(tiles, triton.cdiv(width, down_blocks.columns))](
        inner_MF, down_EDF, weights_NK.flatten(), spoken_MD, order_M, tile_expert, tile_row, end_E,
        width, inner_width, experts,
        down_blocks.rows, down_blocks.columns, down_blocks.inner, INTERPRET,
        num_warps=down_blocks.warps, num_stages=down_blocks.stages,
    )  # fmt: skip
    return spoken_MD.view(tokens, choices, width).sum(1, dtype=torch.float32).to(x_ND.dtype)


def _tiles(chosen_NK: Tensor, experts: int, rows: int) -> tuple[int, Tensor, Tensor, Tensor]:
    """Tiles over sorted rows: an upper bound of their number, each one's expert (E: unused) and first row,
    and where each expert's rows end. Stays on the device."""
    device = chosen_NK.device
    count_E = torch.zeros(experts, dtype=torch.int64, device=device).scatter_add_(
        0, chosen_NK.flatten(), torch.ones_like(chosen_NK.flatten())
    )
    end_E = count_E.cumsum(0)
    tile_end_E = ((count_E + rows - 1) // rows).cumsum(0)
    tiles = triton.cdiv(chosen_NK.numel(), rows) + min(experts, chosen_NK.numel())
    tile = torch.arange(tiles, device=device)
    tile_expert = torch.searchsorted(tile_end_E, tile, right=True)
    known = tile_expert.clamp(max=experts - 1)
    tiles_before = tile_end_E[known] - (count_E[known] + rows - 1) // rows
    tile_row = end_E[known] - count_E[known] + (tile - tiles_before) * rows
    return tiles, tile_expert, tile_row, end_E


def _blocks(rows_per_expert: int, columns: int, inner: int) -> Blocks:
    """Tile sizes by the rows an expert gets on average; small shapes are covered by one tile."""
    if INTERPRET:  # a program costs about as much as its work: few and large
        return Blocks(min(64, _power(rows_per_expert)), min(128, _power(columns)), min(128, _power(inner)))
    rows = 16 if rows_per_expert <= 16 else 64 if rows_per_expert <= 128 else 128
    return Blocks(rows, 128, 64, warps=8 if rows == 128 else 4)


def _power(size: int) -> int:
    return max(16, int(triton.next_power_of_2(size)))
