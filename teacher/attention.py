"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

Keys and values of all heads come from one normed latent of width C; position lives in R
extra columns, one rotated key shared by all heads. Here everything is expanded per head,
which is the cheaper way for training and prefill. Decoding from the latent cache, with
the expansion absorbed into the query, is `teacher.decoder`. No dropout on weights but
`attention_dropout`; no sliding window, no sparsity. How the expanded heads attend is an
explicit choice.
"""

import logging
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import UserError, did_you_mean
from teacher.config import TeacherConfig
from teacher.kernels import reference
from teacher.norm import RMSNorm
from teacher.parallel.joins import Join, alone
from teacher.rotary import rotate_tail, softmax_scale
from teacher.rows import Rows

# N tokens, S sequences, L longest, H heads, Q query width per head, V value width per head,
# C latent width, R rotated width

logger = logging.getLogger(__name__)

AttentionBackend = Literal["reference", "sdpa"]
"""`reference`: scores, softmax, weighted sum, in plain PyTorch. `sdpa`: torch's scaled_dot_product_attention."""
LATENT_EPS = 1e-6
"""The latents' norms do not follow `rms_norm_eps` (published modeling_deepseek.py, same in transformers)."""


def choose_attention(name: str, *, tell: bool = True) -> AttentionBackend:
    """The named backend, logged with the reason it can run here unless `tell` is off. UserError when there is none of
    that name."""
    if name == "reference":
        reason = "the definition, which holds every score at once"
    elif name == "sdpa":
        reason = "torch's fused attention, on any device; torch picks the kernel"
    else:
        known = get_args(AttentionBackend)
        raise UserError(f"attention_backend {name}: unknown{did_you_mean(name, known)}; there are {', '.join(known)}")
    if tell:
        logger.info("attention backend %s: %s", name, reason)
    return cast(AttentionBackend, name)


class LatentAttention(nn.Module):
    """One layer's attention. Parameter names are the published ones."""

    def __init__(self, config: TeacherConfig, backend: AttentionBackend = "sdpa") -> None:
        super().__init__()
        self.backend: AttentionBackend = backend
        self.join: Join = alone
        """What makes the output whole where ranks share the heads: set by `teacher.parallel`."""
        width, heads, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
        self.heads, self.query_width, self.value_width = heads, config.qk_head_dim, config.v_head_dim
        self.nope_width, self.rope_width, self.latent_width = (
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.kv_lora_rank,
        )
        self.interleave = config.rope_interleave
        self.scale = softmax_scale(config)
        self.dropout = float(config.attention_dropout)
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(width, heads * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(width, config.q_lora_rank, bias=bias)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.qk_head_dim, bias=False)
        self.q_lora = config.q_lora_rank is not None
        self.kv_a_proj_with_mqa = nn.Linear(width, config.kv_lora_rank + config.qk_rope_head_dim, bias=bias)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, LATENT_EPS)
        self.kv_b_proj = nn.Linear(
            config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim), bias=False
        )
        self.o_proj = nn.Linear(heads * config.v_head_dim, width, bias=bias)

    def forward(self, x_ND: Tensor, rows: Rows, turns_NP: Tensor, latents: list[Tensor] | None = None) -> Tensor:
        """Attend within each sequence. Appends what a cache keeps, (N, C + R), to `latents` when given."""
        query_NHQ = rotate_tail(self.query(x_ND), turns_NP, self.interleave)
        latent_NC, rope_N1R = self.latent(x_ND, turns_NP)
        if latents is not None:
            latents.append(torch.cat((latent_NC, rope_N1R[:, 0]), dim=-1))
        expanded_NHX = self.kv_b_proj(latent_NC).unflatten(-1, (self.heads, -1))
        nope_NHX, value_NHV = expanded_NHX.split((self.nope_width, self.value_width), dim=-1)
        key_NHQ = torch.cat((nope_NHX, rope_N1R.expand(-1, self.heads, -1)), dim=-1)
        grids = zip(rows.to_grids(query_NHQ), rows.to_grids(key_NHQ), rows.to_grids(value_NHV), strict=True)
        attended_NHV = rows.from_grids([self._attend(*grid) for grid in grids])
        return self.join(self.o_proj(attended_NHV.flatten(1)))

    def _attend(self, query_SLHQ: Tensor, key_SLHQ: Tensor, value_SLHV: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if self.backend == "reference":
            return reference.attention(query_SLHQ, key_SLHQ, value_SLHV, self.scale, dropout)
        narrower = self.query_width - self.value_width
        if narrower > 0 and value_SLHV.device.type == "cpu":
            # Of unequal widths torch has no fused kernel on a CPU: 8 x 512 tokens took 106 ms a layer, padded 43.
            value_SLHV = F.pad(value_SLHV, (0, narrower))
        attended_SHLV = F.scaled_dot_product_attention(
            query_SLHQ.transpose(1, 2),
            key_SLHQ.transpose(1, 2),
            value_SLHV.transpose(1, 2),
            is_causal=True,  # sequences start at column 0, so padding behind them is never seen
            dropout_p=dropout,
            scale=self.scale,
        )
        return attended_SHLV.transpose(1, 2)[..., : self.value_width]

    def query(self, x_ND: Tensor) -> Tensor:
        """Queries (N, H, Q), not yet rotated."""
        flat: Tensor = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_ND))) if self.q_lora else self.q_proj(x_ND)
        return flat.view(-1, self.heads, self.query_width)

    def latent(self, x_ND: Tensor, turns_NP: Tensor) -> tuple[Tensor, Tensor]:
        """The normed latent (N, C) and the rotated shared key (N, 1, R)."""
        latent_NC, rope_NR = self.kv_a_proj_with_mqa(x_ND).split((self.latent_width, self.rope_width), dim=-1)
        return self.kv_a_layernorm(latent_NC), rotate_tail(rope_NR[:, None], turns_NP, self.interleave)
