"""One decoder layer: attention and feed-forward, each behind a norm and beside a residual."""

from torch import Tensor, nn

from teacher.attention import AttentionBackend, LatentAttention
from teacher.config import TeacherConfig
from teacher.moe import Backend, FeedForward, MixtureOfExperts
from teacher.norm import RMSNorm
from teacher.rows import Rows

# N tokens, D model width, P rotated pairs


class DecoderLayer(nn.Module):
    """Layer `layer` of a model; which kind of feed-forward it has is the configuration's word."""

    def __init__(self, config: TeacherConfig, layer: int, experts: Backend, attention: AttentionBackend) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LatentAttention(config, attention)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: nn.Module = (
            FeedForward(config.hidden_size, config.intermediate_size)
            if config.is_dense(layer)
            else MixtureOfExperts(config, experts)
        )

    def forward(self, x_ND: Tensor, rows: Rows, turns_NP: Tensor, latents: list[Tensor] | None = None) -> Tensor:
        x_ND = x_ND + self.self_attn(self.input_layernorm(x_ND), rows, turns_NP, latents)
        output: Tensor = x_ND + self.mlp(self.post_attention_layernorm(x_ND))
        return output
