"""What the kernels compute, in plain PyTorch: slow, obvious, runs anywhere. This is the specification."""

import torch
import torch.nn.functional as F
from torch import Tensor

# N tokens, D width, E experts, K experts a token, F expert width
# S sequences, L longest, H heads, Q query width, V value width


def grouped_mlp(x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    """Sum over a token's experts of weight * down(silu(gate x) * up x); DeepSeek-V3 report, eq. 12.

    `x_ND` (N, D); `weights_NK` (N, K) routing weights; `chosen_NK` (N, K) int expert ids;
    `gate_up_EGD` (E, 2F, D), gate rows first; `down_EDF` (E, D, F). Returns (N, D).
    """
    output_ND = torch.zeros_like(x_ND)
    for expert in range(len(down_EDF)):
        token, choice = (chosen_NK == expert).nonzero(as_tuple=True)
        gate, up = F.linear(x_ND[token], gate_up_EGD[expert]).chunk(2, dim=-1)
        spoken = F.linear(F.silu(gate) * up, down_EDF[expert])
        output_ND = output_ND.index_add(0, token, spoken * weights_NK[token, choice, None].to(spoken.dtype))
    return output_ND


def attention(query_SLHQ: Tensor, key_SLHQ: Tensor, value_SLHV: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """Causal softmax attention within each sequence, softmax in float32 or wider. Returns (S, L, H, V).

    `query_SLHQ`, `key_SLHQ` (S, L, H, Q); `value_SLHV` (S, L, H, V); `dropout` is the share of weights dropped.
    """
    wide = torch.promote_types(query_SLHQ.dtype, torch.float32)
    scores_SHLL = torch.einsum("slhq,smhq->shlm", query_SLHQ, key_SLHQ).to(wide) * scale
    future_LL = torch.ones(scores_SHLL.shape[-2:], dtype=torch.bool, device=scores_SHLL.device).triu(1)
    weights_SHLL = scores_SHLL.masked_fill(future_LL, -torch.inf).softmax(-1)
    weights_SHLL = F.dropout(weights_SHLL, dropout).to(value_SLHV.dtype)
    return torch.einsum("shlm,smhv->slhv", weights_SHLL, value_SLHV)
