"""Attention over packed rows on a CPU: each row by itself, none over what it may not see.

transformers masks a packed row densely: 2,048 tokens in ten rows cost as much attention as one row of 2,048. Here the
boundaries the collator sends along (`cu_seq_lens_q`) cut queries, keys and values, and torch's fused causal attention
takes each row alone; every other layer of the model sees the packed row whole. Registered with transformers as the
attention `rows`. On a GPU nothing changes: there a call a row would cost more than the mask.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# B batch (1), H heads, K key heads, T tokens of all rows, D numbers of a head

NAME = "rows"


def attend_rows(
    module: torch.nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row; (B, T, H, D). Without boundaries the batch is one row, or plain rows."""
    assert attention_mask is None, "packed rows have boundaries, no mask"
    ends = [0, query_BHTD.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    grouped = query_BHTD.shape[1] != key_BKTD.shape[1]
    parts = [
        F.scaled_dot_product_attention(
            query_BHTD[:, :, first:end],
            key_BKTD[:, :, first:end],
            value_BKTD[:, :, first:end],
            dropout_p=dropout if module.training else 0.0,
            is_causal=True,
            scale=scaling,
            enable_gqa=grouped,
        )
        for first, end in pairwise(ends)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def attend_by_rows(model: Any) -> bool:
    """Let a model on a CPU attend row by row, where it takes transformers' attention; whether it does."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config = model.config
    windows = set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}
    window = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    placed = next(model.parameters()).device.type
    if placed != "cpu" or windows or window or config._attn_implementation != "sdpa":
        return False
    ALL_ATTENTION_FUNCTIONS.register(NAME, attend_rows)
    model.set_attn_implementation(NAME)
    return True
