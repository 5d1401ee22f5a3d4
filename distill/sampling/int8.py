"""Weights as int8 while decoding: a lossy option, and named as such wherever its samples go.

Each output channel keeps its largest weight / 127 as scale; activations stay as they are.
That reads a quarter of the bytes of float32, which is what a step of few rows spends its time
on. Measured on one core of an EPYC, 512 x 512 weights that were not in cache: float32 at 1, 8
and 32 rows 53, 101 and 228 us instead of 100, 154 and 290; bfloat16 18, 68 and 160 instead of
79, 97 and 150. A product differs from the exact one by 0.7% of its norm (random weights).
torch's int8 product is slow in float32 (25 times at 32 rows), so it serves bfloat16 alone.
"""

from typing import Literal

import torch
from torch import Tensor

from distill.sampling.product import product

# N rows, X output channels, Y input channels

Weights = Literal["exact", "int8"]
"""How a decoder holds the weights of its matrix products."""
FEW_ROWS = 8
"""Up to here torch's int8 product beats turning the weights into bfloat16 first."""


class Int8Map:
    """`x @ weight.T + bias` with the weight kept as int8."""

    def __init__(self, weight_XY: Tensor, bias_X: Tensor | None = None) -> None:
        wide_XY = weight_XY.detach().float()
        scale_X1 = wide_XY.abs().amax(1, keepdim=True).clamp_(min=1e-30) / 127
        self.weight_XY = (wide_XY / scale_X1).round_().to(torch.int8)
        self.scale_X = scale_X1[:, 0].to(weight_XY.dtype)
        self.bias_X = None if bias_X is None else bias_X.detach()

    def __call__(self, x_NY: Tensor) -> Tensor:
        if x_NY.dtype == torch.bfloat16 and len(x_NY) <= FEW_ROWS and x_NY.device.type == "cpu":
            output_NX = torch._weight_int8pack_mm(x_NY.contiguous(), self.weight_XY, self.scale_X)
        else:
            output_NX = product(x_NY, self.weight_XY.to(x_NY.dtype)).mul_(self.scale_X)
        return output_NX if self.bias_X is None else output_NX.add_(self.bias_X)
