"""How big a teacher is, counted on the meta device from the modules a model is made of: no weight is allocated.

Also says what its cache costs beside that of ordinary attention of the same shape: keys and
values of H heads (multi-head), or of fewer heads shared by groups of queries (grouped-query,
arXiv 2305.13245). Reads nothing of `teacher.model`, so that it answers at once.
"""

from dataclasses import dataclass

import torch
from torch import nn

from teacher.config import TeacherConfig
from teacher.layer import DecoderLayer
from teacher.mtp import FurtherToken, build_layers
from teacher.norm import RMSNorm

CONVENTION = "all parameters but the routed experts a token does not choose; embedding and head count, MTP does not"
CACHE_BYTES = 2
"""Bytes of a cached value in bfloat16."""
GROUPED = (8, 4, 2)
"""Key and value heads of the grouped-query shapes compared with."""
MODULES = (
    (".self_attn.", "attention"),
    (".mlp.experts.", "routed experts"),
    (".mlp.shared_experts.", "shared experts"),
    (".mlp.gate.", "router"),
    (".mlp.", "dense FFN"),
    ("norm.", "norms"),
)
"""What a parameter of a layer belongs to: the first part its name holds."""
ORDER = ("embedding", "attention", "dense FFN", "routed experts", "shared experts", "router", "norms", "head")


@dataclass(frozen=True, slots=True)
class Component:
    """Parameters of one part of the model."""

    name: str
    total: int
    active: int


@dataclass(frozen=True, slots=True)
class Cache:
    """What attention of one kind keeps for a token in one layer."""

    kind: str
    values: int

    @property
    def bytes(self) -> int:
        return self.values * CACHE_BYTES


@dataclass(frozen=True, slots=True)
class Sizes:
    """Parameters and cache of one configuration."""

    components: tuple[Component, ...]
    """Of the main model, in the order a token passes them."""
    further: Component
    """Modules for further tokens (MTP) without their copies of embedding and head; in no total."""
    bias_entries: int
    """Entries of the routers' correction biases, which are buffers and no parameters."""
    layers: int
    caches: tuple[Cache, ...]
    """A token in one layer: this model's first, then the others of the same shape."""

    @property
    def total(self) -> int:
        """All parameters of the main model."""
        return sum(component.total for component in self.components)

    @property
    def active(self) -> int:
        """Parameters one token passes, by `CONVENTION`."""
        return sum(component.active for component in self.components)

    @property
    def cache_values_per_token(self) -> int:
        """Numbers this model's cache keeps for a token, over all layers."""
        return self.layers * self.caches[0].values

    def of(self, name: str) -> Component:
        """The component of a name."""
        return next(component for component in self.components if component.name == name)


def count(config: TeacherConfig) -> Sizes:
    """Sizes of a configuration."""
    with torch.device("meta"):
        layers = build_layers(config, "reference", "reference")
        # Filling an embedding, even on meta, would import half of torch; so it is given its weight.
        embedding = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.hidden_size))
        head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
    totals = dict.fromkeys(ORDER, 0)
    totals["embedding"] = embedding.weight.numel()
    totals["head"] = 0 if config.tie_word_embeddings else head.weight.numel()
    totals["norms"] = norm.weight.numel()
    further = routed_further = bias = 0
    for layer in layers:
        for name, weight in layer.named_parameters():
            part = next((part for mark, part in MODULES if mark in f".{name}"), "")
            if isinstance(layer, FurtherToken):
                further += weight.numel()
                routed_further += weight.numel() * (part == "routed experts")
            else:
                totals[part] += weight.numel()
        if not isinstance(layer, FurtherToken):
            bias += sum(buffer.numel() for name, buffer in layer.named_buffers() if name.endswith("correction_bias"))

    def active(routed: int) -> int:
        return routed * config.num_experts_per_tok // config.n_routed_experts

    parts = tuple(
        Component(name, total, active(total) if name == "routed experts" else total) for name, total in totals.items()
    )
    module = Component("MTP", further, further - routed_further + active(routed_further))
    return Sizes(parts, module, bias, config.num_hidden_layers, _caches(layers[0]))


def _caches(layer: nn.Module) -> tuple[Cache, ...]:
    """This layer's cache, then those of its shape with whole keys and values."""
    assert isinstance(layer, DecoderLayer)
    attention = layer.self_attn
    heads, key, value = attention.heads, attention.query_width, attention.value_width
    others = [
        Cache(f"MHA, {heads} heads, keys of {key} and values of {value} as expanded here", heads * (key + value)),
        Cache(f"MHA, {heads} heads of {value}", heads * 2 * value),
    ]
    others += [Cache(f"GQA-{few}, {few} heads of {value}", few * 2 * value) for few in GROUPED if few < heads]
    kept = attention.latent_width + attention.rope_width
    return (Cache(f"MLA, latent of {attention.latent_width} and shared key of {attention.rope_width}", kept), *others)
