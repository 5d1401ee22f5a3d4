"""Toy teachers beside transformers' own with the same weights, and how they are compared."""

import itertools
import random
from collections.abc import Iterable
from typing import Any

import torch
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM

from teacher.config import preset
from teacher.model import DeepseekForCausalLM

YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "kv_lora_rank": 16,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "miniature": {"num_hidden_layers": 2},
    "no dense layer": {**SMALL, "first_k_dense_replace": 0, "num_hidden_layers": 2},
    "two dense layers": {**SMALL, "first_k_dense_replace": 2, "num_hidden_layers": 3},
    "dense only": {**SMALL, "first_k_dense_replace": 2, "num_hidden_layers": 2},
    "query latent": {**SMALL, "q_lora_rank": 12, "num_hidden_layers": 2},
    "query latent and biases": {**SMALL, "q_lora_rank": 12, "attention_bias": True, "num_hidden_layers": 2},
    "one group": {**SMALL, "n_group": 1, "topk_group": 1, "num_hidden_layers": 2},
    "one group of four": {**SMALL, "n_group": 4, "topk_group": 1, "num_hidden_layers": 2},
    "three groups of four, 64 experts": {
        **SMALL, "n_routed_experts": 64, "n_group": 4, "topk_group": 3, "num_experts_per_tok": 8,
        "num_hidden_layers": 2,
    },
    "every reachable expert": {
        **SMALL, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4, "num_hidden_layers": 2,
    },
    "two shared experts": {**SMALL, "n_shared_experts": 2, "num_hidden_layers": 2},
    "weights not normalized": {**SMALL, "norm_topk_prob": False, "routed_scaling_factor": 1.0, "num_hidden_layers": 2},
    "yarn": {**SMALL, "rope_parameters": YARN, "max_position_embeddings": 2560, "num_hidden_layers": 2},
    "yarn, unequal mscales": {
        **SMALL, "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}, "num_hidden_layers": 2,
    },
    "yarn, no mscale": {
        **SMALL, "rope_parameters": {k: v for k, v in YARN.items() if "mscale" not in k}, "num_hidden_layers": 2,
    },
    "rope by halves": {**SMALL, "rope_interleave": False, "num_hidden_layers": 2},
    "rope by halves, yarn": {**SMALL, "rope_interleave": False, "rope_parameters": YARN, "num_hidden_layers": 2},
    "tied head": {**SMALL, "tie_word_embeddings": True, "num_hidden_layers": 2},
    "odd widths": {
        **SMALL, "num_attention_heads": 3, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 7,
        "num_hidden_layers": 2,
    },
    "large norm epsilon": {**SMALL, "rms_norm_eps": 0.1, "q_lora_rank": 12, "num_hidden_layers": 2},
}  # fmt: skip


def shake(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights of ordinary size, norms away from one, correction biases of both signs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("layernorm.weight") or name.endswith("norm.weight"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("correction_bias"):
                tensor.normal_(std=0.3, generator=generator)
            else:
                tensor.normal_(std=tensor.shape[-1] ** -0.5, generator=generator)


def pair(name: str = "mini", **keys: Any) -> tuple[DeepseekForCausalLM, Any]:
    """Ours and transformers' with the same weights, evaluating."""
    config = preset(name, **keys)
    ours = DeepseekForCausalLM(config)
    shake(ours)
    if config.model_type == "deepseek_v2":
        peer = DeepseekV2ForCausalLM(DeepseekV2Config.from_dict(config.to_dict()))
    else:
        peer = DeepseekV3ForCausalLM(DeepseekV3Config.from_dict(config.to_dict()))
    further = tuple(
        f"model.layers.{config.num_hidden_layers + depth}." for depth in range(config.num_nextn_predict_layers)
    )
    peer.load_state_dict({key: value for key, value in ours.state_dict().items() if not key.startswith(further or "-")})
    return ours.eval(), peer.eval()


def ids_for(model: DeepseekForCausalLM, batch: int = 3, width: int = 21, seed: int = 1) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (batch, width), generator=torch.Generator().manual_seed(seed))


def difference(ours: torch.Tensor, peer: torch.Tensor) -> float:
    return float((ours.detach() - peer.detach()).abs().max() / peer.detach().abs().max())


def assert_gradients_equal(ours: Iterable[tuple[str, torch.nn.Parameter]], peer: torch.nn.Module) -> None:
    """Every gradient within 1e-4 of the largest number in its own."""
    theirs = dict(peer.named_parameters())
    for name, parameter in ours:
        gradient = theirs[name].grad
        assert parameter.grad is not None, name
        assert gradient is not None, name
        if gradient.abs().max() > 1e-12:
            assert difference(parameter.grad, gradient) <= 1e-4, name


def mixed(count: int) -> dict[str, dict[str, Any]]:
    """Toy shapes that differ in many things at once, drawn from all combinations with a fixed seed."""
    choices: dict[str, list[dict[str, Any]]] = {
        "dense": [{"first_k_dense_replace": dense, "num_hidden_layers": 2 + (dense > 1)} for dense in (0, 1, 2)],
        "query": [{"q_lora_rank": None}, {"q_lora_rank": 12}],
        "experts": [{"n_routed_experts": experts} for experts in (8, 16, 32, 64)],
        "groups": [{"n_group": 1, "topk_group": 1}, {"n_group": 4, "topk_group": 2}],
        "rope": [{}, {"rope_parameters": YARN, "max_position_embeddings": 2560}],
        "pairs": [{"rope_interleave": True}, {"rope_interleave": False}],
        "head": [{"tie_word_embeddings": True}, {"tie_word_embeddings": False}],
    }
    drawn = random.Random(0).sample(list(itertools.product(*choices.values())), count)
    named = {}
    for combination in drawn:
        keys = {key: value for part in combination for key, value in part.items()}
        name = " ".join(
            str(value) for key, value in keys.items() if key not in ("rope_parameters", "num_hidden_layers")
        )
        named[name] = {**SMALL, **keys}
    return named
