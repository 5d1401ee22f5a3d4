"""How big a teacher is, counted on the meta device: no weight is allocated."""

from dataclasses import dataclass

import torch

from teacher.config import TeacherConfig
from teacher.model import DeepseekForCausalLM


@dataclass(frozen=True, slots=True)
class Sizes:
    """Parameters and cache of one configuration."""

    total: int
    """All parameters; the router's correction bias is a buffer and not counted."""
    active: int
    """Parameters one token passes: everything but K of E routed experts; embedding and head included."""
    cache_values_per_token: int


def count(config: TeacherConfig) -> Sizes:
    """Sizes of a configuration."""
    with torch.device("meta"):
        model = DeepseekForCausalLM(config)
    routed = sum(weight.numel() for name, weight in model.named_parameters() if ".mlp.experts." in name)
    total = sum(weight.numel() for weight in model.parameters())
    active = total - routed + routed * config.num_experts_per_tok // config.n_routed_experts
    return Sizes(total, active, (config.kv_lora_rank + config.qk_rope_head_dim) * config.num_hidden_layers)
