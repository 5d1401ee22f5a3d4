"""What a teacher costs each GPU of a layout: its part is built on the meta device and counted, no weight is allocated.

Weights, cache and what a step reads are exact: they are sums over the very modules that are loaded, and over
what the decoder makes of them. Activations are an upper bound: the largest layer's tensors of one prompt
token as if they all lived at once, every expert of the token on this GPU.
"""

import torch
from torch import Tensor, nn

from distill.plan import EngineShape
from distill.train.adapters import layer_sizes
from distill.train.estimate import TrainShape
from distill.train.optimizers import split_parameters
from teacher.attention import LatentAttention
from teacher.config import TeacherConfig
from teacher.decoder import LatentDecoder, is_folded
from teacher.fp8 import SCALE
from teacher.loader import DTYPES
from teacher.moe import FeedForward
from teacher.parallel.joins import Groups, alone
from teacher.parallel.layout import Layout, check_layout
from teacher.parallel.loading import RESIDENT, keep_fp8
from teacher.parallel.split import split_model
from teacher.resident import FP8, TILE
from teacher.sizes import count

QUANTIZED = ("_proj.weight", "kv_a_proj_with_mqa.weight")
"""Endings of the matrices DeepSeek publishes in FP8."""
PUBLISHED = {
    "DeepSeek-R1": "r1",
    "DeepSeek-R1-0528": "r1",
    "DeepSeek-V3": "v3",
    "DeepSeek-V2": "v2",
    "DeepSeek-V2-Lite": "v2-lite",
}
"""Folder names of published models whose shape is known without their folder, and their presets."""
SAMPLING = 4
"""Arrays as large as the logits while tokens are chosen: logits, probabilities, sorted, sums; float32."""
UNFOLDED = ("kv_b_proj",)
FOLDED = ("kv_b_proj", "q_b_proj", "q_proj", "o_proj")
"""Modules a step does not read: what the decoder made of them is read in their place."""


def engine_shape(config: TeacherConfig, layout: Layout, dtype: str, name: str) -> EngineShape:
    """Shape on rank 0, which holds most. Raises UserError where the teacher cannot be split so."""
    resident = dtype == RESIDENT
    wide = torch.bfloat16 if resident else DTYPES[dtype]
    check_layout(config, layout, fp8=resident)
    model = split_model(config, Groups(layout))
    if resident:
        keep_fp8(model, config, layout, lambda published: published.endswith(QUANTIZED))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    sizes = {tensor: _bytes(tensor, weight, wide) for tensor, weight in tensors.items()}
    decoder = LatentDecoder(model)
    made = sum(
        value.numel() * wide.itemsize
        for layer in decoder.layers
        for value in vars(layer).values()
        if isinstance(value, Tensor)
    )
    attention = model.model.layers[0].self_attn
    assert isinstance(attention, LatentAttention)
    joined = sum(_joined(layer.module.mlp) for layer in decoder.layers) * wide.itemsize
    made += joined
    unread = FOLDED if is_folded(attention) else UNFOLDED
    always = (
        made
        - joined
        + sum(
            size
            for tensor, size in sizes.items()
            if ".mlp.experts." not in tensor
            and tensor.split(".")[-2] not in unread
            and (config.tie_word_embeddings or "embed_tokens" not in tensor)
        )
    )
    routed = sum(not config.is_dense(layer) for layer in range(config.num_hidden_layers))
    experts = sum(size for tensor, size in sizes.items() if ".mlp.experts." in tensor)
    own = len(layout.experts(config.n_routed_experts)) * max(routed, 1)
    return EngineShape(
        what=f"{name}, {dtype}" + (f", tensor {layout.tensor}, expert {layout.expert}" if layout.world > 1 else ""),
        gpus=layout.world,
        weight_bytes=sum(sizes.values()) + made,
        always_bytes=always,
        expert_bytes=experts * layout.inner // own,
        experts=config.n_routed_experts if routed else 0,
        chosen=config.num_experts_per_tok if routed else 0,
        expert_layers=routed,
        cache_bytes_per_token=len(decoder.layers) * decoder.width * wide.itemsize,
        prefill_bytes_per_token=_prefill_values(config, layout) * wide.itemsize,
        row_bytes=config.vocab_size * SAMPLING * 4,
        scratch_bytes=_scratch(config, layout) if resident else 0,
        positions=config.max_position_embeddings,
    )


def train_shape(config: TeacherConfig, name: str) -> TrainShape:
    """A teacher as training sees it; modules for further tokens count as trained."""
    from teacher.model import DeepseekForCausalLM

    with torch.device("meta"):
        model = DeepseekForCausalLM(config)
    matrices, rest = ({id(weight): weight.numel() for weight in part} for part in split_parameters(model))
    experts = sum(matrices.pop(id(weight)) for key, weight in model.named_parameters() if ".mlp.experts." in key)
    sizes = count(config)
    embedding, head = sizes.of("embedding").total, model.lm_head.weight.numel()
    return TrainShape(
        what=name,
        matrices=sum(matrices.values()),
        expert_matrices=experts,
        rest=sum(rest.values()),
        multiplied=sizes.active - (0 if config.tie_word_embeddings else embedding),
        further=sizes.further.active + config.num_nextn_predict_layers * head,
        vocabulary=config.vocab_size,
        layer_values=tuple(_kept(config, layer) for layer in range(config.num_hidden_layers)),
        width=config.hidden_size,
        layers=layer_sizes(model),
    )


def _kept(config: TeacherConfig, layer: int) -> int:
    """Numbers of a token autograd keeps of a layer: what went into every product, norm and rotation."""
    width, heads, choices = config.hidden_size, config.num_attention_heads, config.num_experts_per_tok
    latents = config.kv_lora_rank + config.qk_rope_head_dim + (config.q_lora_rank or 0)
    attention = heads * (2 * config.qk_head_dim + 2 * config.v_head_dim + config.qk_nope_head_dim + 1) + 2 * latents
    if config.is_dense(layer):
        feed = 4 * config.intermediate_size
    else:
        inner = config.moe_intermediate_size
        feed = choices * (width + 2 * inner + 4) + 4 * inner * config.n_shared_experts + 3 * config.n_routed_experts
    return 4 * width + attention + feed


def _joined(mlp: nn.Module) -> int:
    """Numbers of the gate and up matrix a step keeps of a feed-forward that is not shared (`teacher.feed`)."""
    if not isinstance(mlp, FeedForward) or mlp.join is not alone or type(mlp.gate_proj) is not nn.Linear:
        return 0
    return 2 * mlp.gate_proj.weight.numel()


def _bytes(name: str, tensor: Tensor, wide: torch.dtype) -> int:
    exact = name.endswith(("e_score_correction_bias", SCALE))
    return tensor.numel() * (1 if tensor.dtype == FP8 else 4 if exact else wide.itemsize)


def _prefill_values(config: TeacherConfig, layout: Layout) -> int:
    """Numbers of one token that attention, or a feed-forward, has at hand beside the residual stream."""
    width, heads = config.hidden_size, config.num_attention_heads // layout.tensor
    query, value = config.qk_head_dim, config.v_head_dim
    attention = heads * (3 * query + config.qk_nope_head_dim + 3 * value) + 2 * (config.q_lora_rank or 0)
    dense = 3 * config.intermediate_size // layout.tensor
    inner = config.moe_intermediate_size // layout.inner
    shared = 3 * config.moe_intermediate_size * config.n_shared_experts // layout.world
    experts = config.num_experts_per_tok * (2 * width + 3 * inner) + shared
    return 4 * width + max(attention, dense, experts)


def _scratch(config: TeacherConfig, layout: Layout) -> int:
    """A tile or an expert's matrix being made wide: q and scales in float32, their product, and the result."""
    tile = TILE * max(config.hidden_size, config.intermediate_size // layout.tensor)
    expert = config.hidden_size * config.moe_intermediate_size // layout.inner
    return max(tile, 3 * expert) * (4 + 4 + 4 + 2)
