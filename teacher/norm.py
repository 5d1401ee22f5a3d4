"""Root-mean-square norm (arXiv 1910.07467), statistics in float32 or better.

Written by hand, backward included: forward and backward of 2,048 rows of width 64 take
0.33 ms against 0.69 ms for torch's own (float32, one core). Without gradients torch's own is as
fast at 256 rows and a third faster at a few, as a decoding step has them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 256

# N tokens, D width


class RMSNorm(nn.Module):
    """`weight * x / rms(x)` over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_ND: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            output: Tensor = _RMSNorm.apply(x_ND, self.weight, self.eps)
            return output
        if len(x_ND) < FEW_ROWS:
            return F.rms_norm(x_ND, (x_ND.shape[-1],), self.weight, self.eps)
        return _normed(x_ND, self.eps)[0].mul_(self.weight)


def _normed(x_ND: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`x / rms(x)` in x's dtype and `1 / rms(x)` in the statistics' dtype."""
    wide = torch.promote_types(x_ND.dtype, torch.float32)
    length_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True, dtype=wide)
    inverse_N1 = length_N1.square_().mul_(1 / x_ND.shape[-1]).add_(eps).rsqrt_()
    return (x_ND * inverse_N1).to(x_ND.dtype), inverse_N1


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_ND, weight_D, eps):  # type: ignore[no-untyped-def]
        normed_ND, inverse_N1 = _normed(x_ND, eps)
        ctx.save_for_backward(normed_ND, inverse_N1, weight_D)
        return normed_ND * weight_D

    @staticmethod
    def backward(ctx, gradient_ND):  # type: ignore[no-untyped-def]
        normed_ND, inverse_N1, weight_D = ctx.saved_tensors
        weight_grad_D = (gradient_ND * normed_ND).flatten(0, -2).sum(0)
        scaled_ND = gradient_ND * weight_D
        wide_ND = normed_ND.to(scaled_ND.dtype)  # under autocast the weight is wider than what a product gave
        along_N1 = torch.linalg.vecdot(scaled_ND, wide_ND)[..., None].mul_(1 / normed_ND.shape[-1])
        x_grad_ND = scaled_ND.addcmul_(wide_ND, along_N1, value=-1) * inverse_N1
        return x_grad_ND.to(normed_ND.dtype), weight_grad_D, None
