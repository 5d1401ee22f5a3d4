"""The teacher's shape: DeepSeek-V3 configuration keys as published, and presets as data.

DeepSeek-V3 (arXiv 2412.19437, section 4.2) and DeepSeek-V2-Lite (arXiv 2405.04434,
appendix B) list the values. Keys are those of the published `config.json`, so a folder
opens here, in transformers, vLLM and SGLang alike. The next-token-prediction module
beyond the main model is counted in no preset: it is not part of this model yet.
"""

from typing import Any, Literal

from transformers import PretrainedConfig

from distill.errors import UserError, did_you_mean


class TeacherConfig(PretrainedConfig):
    """Latent attention and routed experts. Defaults are the miniature's."""

    model_type = "deepseek_v3"

    vocab_size: int = 64
    hidden_size: int = 64
    """D: width of the residual stream."""
    num_hidden_layers: int = 4
    first_k_dense_replace: int = 1
    """Layers before the first one with experts."""
    intermediate_size: int = 256
    """Width of the dense layers' feed-forward."""
    num_attention_heads: int = 4
    """H."""
    num_key_value_heads: int | None = None
    """Kept equal to H: the latent is shared by all heads, keys and values are not."""
    q_lora_rank: int | None = None
    """Width of the query latent; None projects queries directly."""
    kv_lora_rank: int = 64
    """C: width of the latent that is cached."""
    qk_nope_head_dim: int = 16
    """Query and key width per head without position."""
    qk_rope_head_dim: int = 16
    """R: rotated width, shared by all heads on the key side."""
    v_head_dim: int = 32
    n_routed_experts: int = 8
    """E."""
    n_shared_experts: int = 1
    num_experts_per_tok: int = 2
    """K."""
    moe_intermediate_size: int = 128
    """F: width of one expert."""
    n_group: int = 2
    topk_group: int = 2
    """Groups of experts a token may choose from."""
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5
    scoring_func: Literal["sigmoid", "softmax"] = "sigmoid"
    topk_method: Literal["noaux_tc", "greedy"] = "noaux_tc"
    """`noaux_tc` steers load with a correction bias (arXiv 2408.15664); `greedy` has none."""
    hidden_act: str = "silu"
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] | None = None
    rope_interleave: bool = True
    """Rotated pairs lie side by side, as published; False takes the two halves."""
    attention_bias: bool = False
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    use_cache: bool = False
    """The model itself keeps no cache; `teacher.decoder` does."""
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    num_nextn_predict_layers: int = 0
    head_dim: int = 0
    """Always `qk_rope_head_dim`: readers of RoPE parameters look here."""
    qk_head_dim: int = 0
    """Q: always `qk_nope_head_dim` + `qk_rope_head_dim`."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.head_dim = self.qk_rope_head_dim
        self.qk_head_dim = self.qk_nope_head_dim + self.qk_rope_head_dim
        super().__post_init__(**kwargs)
        _check(self)

    def is_dense(self, layer: int) -> bool:
        """True for the layers before the first one with experts."""
        return layer < self.first_k_dense_replace


MINI: dict[str, Any] = {}
"""The miniature: every value above."""

V3: dict[str, Any] = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "intermediate_size": 18432,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "topk_group": 4,
    "max_position_embeddings": 163840,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "bos_token_id": 0,
    "eos_token_id": 1,
}

V2_LITE: dict[str, Any] = {
    "vocab_size": 102400,
    "hidden_size": 2048,
    "num_hidden_layers": 27,
    "first_k_dense_replace": 1,
    "intermediate_size": 10944,
    "num_attention_heads": 16,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "max_position_embeddings": 163840,
    "rope_parameters": {
        **V3["rope_parameters"],
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
    },
    "bos_token_id": 100000,
    "eos_token_id": 100001,
}

PRESETS: dict[str, dict[str, Any]] = {"mini": MINI, "v3": V3, "v2-lite": V2_LITE}


def preset(name: str, **overrides: Any) -> TeacherConfig:
    """A preset with some keys replaced. Raises UserError for a name or key that does not exist."""
    if name not in PRESETS:
        raise UserError(f"preset {name}: unknown{did_you_mean(name, PRESETS)}; there are {', '.join(PRESETS)}")
    known = [
        key for key in TeacherConfig.__annotations__ if key not in ("head_dim", "qk_head_dim", "num_key_value_heads")
    ]
    for key in overrides:
        if key not in known:
            raise UserError(f"config key {key}: unknown{did_you_mean(key, known)}")
    return TeacherConfig(**{**PRESETS[name], **overrides})


_POSITIVE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "n_group",
    "topk_group",
    "max_position_embeddings",
)


def _check(config: TeacherConfig) -> None:
    """Refuse shapes that cannot be built, naming the key."""
    for key in _POSITIVE:
        value = getattr(config, key)
        if type(value) is not int or value < 1:
            raise UserError(f"config key {key}: {value!r}, expected a whole number above 0")
    if config.num_key_value_heads != config.num_attention_heads:
        raise UserError(
            f"config key num_key_value_heads: {config.num_key_value_heads}, "
            f"expected num_attention_heads ({config.num_attention_heads})"
        )
    if config.hidden_act != "silu":
        raise UserError(f"config key hidden_act: {config.hidden_act!r}, expected 'silu'")
    if config.qk_rope_head_dim % 2:
        raise UserError(f"config key qk_rope_head_dim: {config.qk_rope_head_dim}, expected an even number")
    experts, groups = config.n_routed_experts, config.n_group
    if experts % groups or experts // groups < 2:
        raise UserError(
            f"config key n_group: {groups}, "
            f"expected a divisor of n_routed_experts ({experts}) of at least 2 experts each"
        )
    if not 1 <= config.topk_group <= groups:
        raise UserError(f"config key topk_group: {config.topk_group}, expected 1 to n_group ({groups})")
    reachable = config.topk_group * (experts // groups)
    if not 1 <= config.num_experts_per_tok <= reachable:
        raise UserError(
            f"config key num_experts_per_tok: {config.num_experts_per_tok}, "
            f"expected 1 to {reachable}, the experts in topk_group groups"
        )
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind not in ("default", "yarn"):
        raise UserError(f"config key rope_parameters.rope_type: {kind!r}, expected 'default' or 'yarn'")
