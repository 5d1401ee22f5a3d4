"""Make a model one rank's part: smaller modules under the same names, and a join where partial sums meet.

For speaking: every rank has every token, the parts are frozen. One sum behind attention and one behind
the feed-forward of every layer (Megatron-LM, arXiv 1909.08053, figure 3); with experts the routed and
the shared part are added before they travel.
"""

import copy

import torch
from torch import Tensor

from teacher.attention import AttentionBackend, LatentAttention, choose_attention
from teacher.config import TeacherConfig
from teacher.model import DeepseekForCausalLM
from teacher.moe import FeedForward, MixtureOfExperts
from teacher.parallel.experts import ExpertShare
from teacher.parallel.joins import Groups, VocabularyEmbedding, VocabularyHead, summing
from teacher.parallel.layout import Layout, Share, check_layout, share_of


def split_model(
    config: TeacherConfig, groups: Groups, experts_backend: str = "grouped_mm", attention_backend: str = "sdpa"
) -> DeepseekForCausalLM:
    """This rank's part of a model, on the meta device: shapes and names, no weights.

    Raises UserError when it cannot be split this way.
    """
    layout = groups.layout
    check_layout(config, layout)
    config = main_config(config)
    with torch.device("meta"):
        model = DeepseekForCausalLM(config, experts_backend, attention_backend)
        if layout.world == 1:
            model.requires_grad_(False)
            return model
        for layer in model.model.layers:
            layer.self_attn = _attention(config, groups, choose_attention(attention_backend, tell=False))
            if isinstance(layer.mlp, MixtureOfExperts):
                _share_experts(layer.mlp, config, layout)
            else:
                layer.mlp = _dense(config, groups)
        everyone = Share(0, layout.rank, layout.world)
        embedding = VocabularyEmbedding(config.vocab_size, config.hidden_size, everyone)
        model.set_input_embeddings(embedding)
        model.set_output_embeddings(VocabularyHead(config.hidden_size, config.vocab_size, everyone))
    model.requires_grad_(False).eval()
    return model


def main_config(config: TeacherConfig) -> TeacherConfig:
    """The configuration without modules for further tokens: they are for training."""
    main = copy.copy(config)
    main.num_nextn_predict_layers = 0
    return main


def local_state(state: dict[str, Tensor], config: TeacherConfig, layout: Layout) -> dict[str, Tensor]:
    """This rank's part of a whole published state, under the names its own modules load: views, no copies."""
    local = {}
    for name, tensor in state.items():
        share = share_of(name, config, layout)
        if share is not None:
            first, end = share.bounds(tensor.shape[share.dim]) if share.parts > 1 else (0, 0)
            kept = tensor.narrow(share.dim, first, end - first) if share.parts > 1 else tensor
            local[local_name(name, config, layout)] = kept
    return local


def local_name(name: str, config: TeacherConfig, layout: Layout) -> str:
    """A published name as this rank's modules number it: its experts count from 0."""
    prefix, experts, rest = name.partition(".mlp.experts.")
    if not experts:
        return name
    number, dot, part = rest.partition(".")
    return f"{prefix}{experts}{int(number) - layout.experts(config.n_routed_experts).start}{dot}{part}"


def _attention(config: TeacherConfig, groups: Groups, backend: AttentionBackend) -> LatentAttention:
    layout = groups.layout
    local = copy.copy(config)
    local.num_attention_heads = local.num_key_value_heads = config.num_attention_heads // layout.tensor
    attention = LatentAttention(local, backend)
    if layout.tensor > 1:
        attention.join = summing(groups.tensor)
        if layout.rank % layout.tensor:
            attention.o_proj.register_parameter("bias", None)
    return attention


def _dense(config: TeacherConfig, groups: Groups) -> FeedForward:
    feed = FeedForward(config.hidden_size, config.intermediate_size // groups.layout.tensor)
    if groups.layout.tensor > 1:
        feed.join = summing(groups.tensor)
    return feed


def _share_experts(module: MixtureOfExperts, config: TeacherConfig, layout: Layout) -> None:
    width = config.moe_intermediate_size * config.n_shared_experts
    module.experts = ExpertShare(config, module.experts.backend, layout)
    module.shared_experts = FeedForward(config.hidden_size, width // layout.world)
    module.join = summing()
