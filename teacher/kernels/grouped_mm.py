"""The experts' feed-forward by torch's own grouped product, forward and backward by hand.

`reference.grouped_mlp` is the specification. One autograd node saves less and copies less
than autograd would on its own; that is what makes it the default on CPU.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# N tokens, D width, E experts, K experts a token, F expert width, M = N*K sorted rows


def grouped_mlp(x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    """`reference.grouped_mlp` by torch's grouped product over tokens sorted by expert."""
    output: Tensor = _GroupedMLP.apply(x_ND, weights_NK, chosen_NK, gate_up_EGD, down_EDF)
    return output


class _GroupedMLP(torch.autograd.Function):
    """One autograd node for the whole feed-forward: saves the gate and up products, recomputes the rest.

    M = N*K rows sorted by expert; `ends_E` is where each expert's rows end.
    """

    @staticmethod
    def forward(ctx, x_ND, weights_NK, chosen_NK, gate_up_EGD, down_EDF):  # type: ignore[no-untyped-def]
        choices = chosen_NK.shape[1]
        order_M = chosen_NK.flatten().argsort()
        token_M = order_M // choices
        ends_E = torch.bincount(chosen_NK.flatten(), minlength=len(down_EDF)).cumsum(0, dtype=torch.int32)
        x_MD = x_ND.index_select(0, token_M)
        weight_M1 = weights_NK.flatten().index_select(0, order_M)[:, None].to(x_ND.dtype)
        gate_up_MG = F.grouped_mm(x_MD, gate_up_EGD.transpose(1, 2), offs=ends_E)
        gate, up = gate_up_MG.chunk(2, dim=-1)
        inner_MF = F.silu(gate).mul_(up).mul_(weight_M1)
        spoken_MD = F.grouped_mm(inner_MF, down_EDF.transpose(1, 2), offs=ends_E)
        ctx.save_for_backward(x_MD, weight_M1, order_M, token_M, ends_E, gate_up_MG, gate_up_EGD, down_EDF)
        ctx.shape = weights_NK.shape
        ctx.weights_dtype = weights_NK.dtype
        return _back_to_tokens(spoken_MD, order_M, choices)

    @staticmethod
    def backward(ctx, gradient_ND):  # type: ignore[no-untyped-def]
        x_MD, weight_M1, order_M, token_M, ends_E, gate_up_MG, gate_up_EGD, down_EDF = ctx.saved_tensors
        gate, up = gate_up_MG.chunk(2, dim=-1)
        gradient_MD = gradient_ND.index_select(0, token_M)
        silu = F.silu(gate)
        unweighted_MF = silu * up
        inner_grad_MF = F.grouped_mm(gradient_MD, down_EDF, offs=ends_E)
        weight_grad_M = torch.linalg.vecdot(inner_grad_MF, unweighted_MF)
        down_grad = F.grouped_mm(gradient_MD.t(), unweighted_MF.mul_(weight_M1), offs=ends_E)
        inner_grad_MF.mul_(weight_M1)
        gate_up_grad = torch.empty_like(gate_up_MG)
        gate_grad, up_grad = gate_up_grad.chunk(2, dim=-1)
        torch.mul(inner_grad_MF, silu, out=up_grad)
        gate_grad.copy_(torch.ops.aten.silu_backward(inner_grad_MF.mul_(up), gate))
        x_grad_MD = F.grouped_mm(gate_up_grad, gate_up_EGD, offs=ends_E)
        weights_grad = torch.empty_like(weight_grad_M).index_copy_(0, order_M, weight_grad_M)
        return (
            _back_to_tokens(x_grad_MD, order_M, ctx.shape[1]),
            weights_grad.view(ctx.shape).to(ctx.weights_dtype),
            None,
            F.grouped_mm(gate_up_grad.t(), x_MD, offs=ends_E),
            down_grad,
        )


def _back_to_tokens(sorted_MD: Tensor, order_M: Tensor, choices: int) -> Tensor:
    """Sum each token's K rows in a fixed order, so that a repeat gives the same bits."""
    by_token_MD = torch.empty_like(sorted_MD).index_copy_(0, order_M, sorted_MD)
    return by_token_MD.view(-1, choices, sorted_MD.shape[-1]).sum(1)
