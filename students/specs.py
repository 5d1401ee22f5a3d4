"""Shapes of dense students, as data: miniatures first, then the published models.

Published shapes are the `config.json` of the named model on the hub. The vocabulary is not
here: it comes with the tokenizer.
"""

from typing import Any, Literal

from pydantic import Field, ValidationError

from distill.errors import UserError, did_you_mean
from distill.records import Record

Arch = Literal["llama", "qwen2", "qwen3"]


class Spec(Record):
    """A decoder-only transformer without its vocabulary."""

    arch: Arch = "llama"
    """Llama; Qwen2 adds biases to q, k and v; Qwen3 norms q and k per head."""
    width: int = Field(gt=0)
    ffn: int = Field(gt=0)
    """Inner width of the gated feed-forward block."""
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_width: int | None = Field(default=None, gt=0)
    """width / heads when not given."""
    tied: bool = True
    """One matrix for embedding and head."""
    positions: int = Field(default=1024, gt=0)
    """Longest sequence, in tokens."""
    rope_theta: float = 10_000.0
    rope: dict[str, Any] | None = None
    """Rope scaling in transformers' words, such as rope_type "llama3" with its factors."""
    norm_eps: float = 1e-6
    init_std: float = 0.02
    """Standard deviation of fresh matrices."""


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

SPECS: dict[str, Spec] = {
    # The number is the parameter count with the miniature's vocabulary of 192, embedding tied.
    "mini-320k": Spec(width=128, ffn=128, layers=3, heads=4, kv_heads=2),
    "mini-160k": Spec(width=64, ffn=192, layers=3, heads=4, kv_heads=2),
    "mini-95k": Spec(width=64, ffn=128, layers=2, heads=2, kv_heads=2),
    "mini-70k": Spec(width=64, ffn=64, layers=2, heads=2, kv_heads=2),
    "mini-46k": Spec(width=32, ffn=96, layers=3, heads=2, kv_heads=2),
    "mini-41k": Spec(width=64, ffn=64, layers=1, heads=2, kv_heads=2),
    "mini-27k": Spec(width=32, ffn=64, layers=2, heads=2, kv_heads=2),
    "mini-16k": Spec(width=32, ffn=64, layers=1, heads=2, kv_heads=2),
    "mini-95k-qwen2": Spec(arch="qwen2", width=64, ffn=128, layers=2, heads=2, kv_heads=2),
    "mini-95k-qwen3": Spec(arch="qwen3", width=64, ffn=128, layers=2, heads=2, kv_heads=2),
    "smollm2-135m": Spec(
        width=576, ffn=1536, layers=30, heads=9, kv_heads=3, positions=8192, rope_theta=100_000.0, norm_eps=1e-5
    ),
    "smollm2-360m": Spec(
        width=960, ffn=2560, layers=32, heads=15, kv_heads=5, positions=8192, rope_theta=100_000.0, norm_eps=1e-5
    ),
    "qwen2.5-0.5b": Spec(
        arch="qwen2", width=896, ffn=4864, layers=24, heads=14, kv_heads=2, positions=32_768, rope_theta=1e6
    ),
    "qwen2.5-1.5b": Spec(
        arch="qwen2", width=1536, ffn=8960, layers=28, heads=12, kv_heads=2, positions=32_768, rope_theta=1e6
    ),
    "qwen3-0.6b": Spec(
        arch="qwen3",
        width=1024,
        ffn=3072,
        layers=28,
        heads=16,
        kv_heads=8,
        head_width=128,
        positions=40_960,
        rope_theta=1e6,
    ),
    "llama3.2-1b": Spec(
        width=2048,
        ffn=8192,
        layers=16,
        heads=32,
        kv_heads=8,
        head_width=64,
        positions=131_072,
        rope_theta=500_000.0,
        rope=LLAMA3_ROPE,
        norm_eps=1e-5,
    ),
}


def find_spec(name: str, overrides: dict[str, Any]) -> Spec:
    """A shape by name with some fields replaced. Raises UserError naming the field."""
    if name not in SPECS:
        raise UserError(f"spec {name!r}: unknown shape{did_you_mean(name, SPECS)}; there are {', '.join(SPECS)}")
    try:
        spec = Spec.model_validate({**SPECS[name].model_dump(), **overrides})
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in found["loc"])
        hint = did_you_mean(key, Spec.model_fields) if found["type"] == "extra_forbidden" else ""
        raise UserError(f"overrides of spec {name}: {key}: {found['msg']}{hint}, got {found['input']!r}") from error
    if spec.heads % spec.kv_heads:
        raise UserError(f"spec {name}: kv_heads: {spec.kv_heads} does not divide heads {spec.heads}")
    if spec.head_width is None and spec.width % spec.heads:
        raise UserError(f"spec {name}: heads: {spec.heads} does not divide width {spec.width}; give head_width")
    if (spec.head_width or spec.width // spec.heads) % 2:
        raise UserError(f"spec {name}: head_width: rope needs an even number")
    return spec


def model_config(spec: Spec, vocab_size: int, *, end_id: int, pad_id: int | None) -> Any:
    """The transformers config of a shape."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    kinds = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
    return kinds[spec.arch](
        vocab_size=vocab_size,
        hidden_size=spec.width,
        intermediate_size=spec.ffn,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_width or spec.width // spec.heads,
        tie_word_embeddings=spec.tied,
        max_position_embeddings=spec.positions,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta, **(spec.rope or {})},
        rms_norm_eps=spec.norm_eps,
        initializer_range=spec.init_std,
        bos_token_id=None,
        eos_token_id=end_id,
        pad_token_id=pad_id,
    )
