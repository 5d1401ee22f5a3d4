"""The teacher's shape: configuration keys of DeepSeek-V3 and DeepSeek-V2 as published, and presets as data.

DeepSeek-V3 (arXiv 2412.19437, section 4.2), DeepSeek-V2 (arXiv 2405.04434, section 3.1.2)
and DeepSeek-V2-Lite (there, appendix B) list the values. Keys are those of the published
`config.json`, so a folder opens here, in transformers, vLLM and SGLang alike. Keys that
only DeepSeek's own training reads (`aux_loss_alpha`, `seq_aux`, `ep_size`) are kept and
change nothing: balancing is asked for in a training table.
"""

from typing import Any, ClassVar, Literal

from transformers import PretrainedConfig

from distill.errors import UserError, did_you_mean


class TeacherConfig(PretrainedConfig):
    """Latent attention and routed experts, DeepSeek-V3's folder format. Defaults are the miniature's."""

    model_type = "deepseek_v3"
    architecture: ClassVar[str] = "DeepseekV3ForCausalLM"
    """The class other engines know this folder format by."""
    methods: ClassVar[tuple[str, ...]] = ("noaux_tc",)
    """Values of `topk_method` this folder format knows."""
    scoring: ClassVar[str] = "sigmoid"
    """The one value of `scoring_func` this folder format knows."""

    vocab_size: int = 64
    hidden_size: int = 64
    """D: width of the residual stream."""
    num_hidden_layers: int = 4
    first_k_dense_replace: int = 1
    """Layers before the first one with experts."""
    moe_layer_freq: int = 1
    """From there on, layers whose number it divides have experts. transformers reads it as 1 whatever it says."""
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
    n_group: int | None = 2
    topk_group: int | None = 2
    """Groups of experts a token may choose from; None is 1."""
    norm_topk_prob: bool = True
    """A token's routing weights sum to one, before scaling (V3) or instead of it (V2)."""
    routed_scaling_factor: float = 2.5
    scoring_func: Literal["sigmoid", "softmax"] = "sigmoid"
    topk_method: Literal["noaux_tc", "greedy", "group_limited_greedy"] = "noaux_tc"
    """`noaux_tc` steers load with a correction bias (arXiv 2408.15664), groups ranked by their two best;
    `group_limited_greedy` has no bias, groups ranked by their best; `greedy` has neither bias nor groups."""
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
    """Modules that predict a further token each (V3 report, section 2.2); layers N, N+1, ... on disk."""
    head_dim: int = 0
    """Always `qk_rope_head_dim`: readers of RoPE parameters look here."""
    qk_head_dim: int = 0
    """Q: always `qk_nope_head_dim` + `qk_rope_head_dim`."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.n_group = 1 if self.n_group is None else self.n_group
        self.topk_group = 1 if self.topk_group is None else self.topk_group
        self.head_dim = self.qk_rope_head_dim
        self.qk_head_dim = self.qk_nope_head_dim + self.qk_rope_head_dim
        super().__post_init__(**kwargs)
        _check(self)

    def is_dense(self, layer: int) -> bool:
        """True for layers whose feed-forward has no experts; modules beyond the last layer always have them."""
        if layer >= self.num_hidden_layers:
            return False
        return layer < self.first_k_dense_replace or layer % self.moe_layer_freq != 0

    @property
    def grouped(self) -> bool:
        """Whether the choice of experts is limited to some of their groups."""
        return self.topk_method != "greedy" and (self.topk_group or 1) < (self.n_group or 1)

    @property
    def normalizes(self) -> bool:
        """Whether a token's routing weights are made to sum to one."""
        return self.norm_topk_prob

    @property
    def scales(self) -> bool:
        """Whether routing weights are multiplied by `routed_scaling_factor`."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` holds it: with the class name other engines know."""
        values: dict[str, Any] = super().to_dict()
        values["architectures"] = [self.architecture]
        return values


class TeacherV2Config(TeacherConfig):
    """DeepSeek-V2's folder format: softmax scores, no bias, no further-token modules."""

    model_type = "deepseek_v2"
    architecture: ClassVar[str] = "DeepseekV2ForCausalLM"
    methods: ClassVar[tuple[str, ...]] = ("greedy", "group_limited_greedy")
    scoring: ClassVar[str] = "softmax"

    scoring_func: Literal["sigmoid", "softmax"] = "softmax"
    topk_method: Literal["noaux_tc", "greedy", "group_limited_greedy"] = "greedy"
    n_group: int | None = 1
    topk_group: int | None = 1
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0

    @property
    def normalizes(self) -> bool:
        """As V2's published code has it: a single weight stays as it is."""
        return self.norm_topk_prob and self.num_experts_per_tok > 1

    @property
    def scales(self) -> bool:
        """As V2's published code has it: either normalized or scaled."""
        return not self.normalizes


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
    "num_nextn_predict_layers": 1,
}

V2: dict[str, Any] = {
    "vocab_size": 102400,
    "hidden_size": 5120,
    "num_hidden_layers": 60,
    "first_k_dense_replace": 1,
    "intermediate_size": 12288,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 160,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1536,
    "n_group": 8,
    "topk_group": 3,
    "norm_topk_prob": False,
    "routed_scaling_factor": 16.0,
    "scoring_func": "softmax",
    "topk_method": "group_limited_greedy",
    "max_position_embeddings": 163840,
    "rope_parameters": V3["rope_parameters"],
    "bos_token_id": 100000,
    "eos_token_id": 100001,
}
"""The published folder has mscale 1; the paper (section 3.1.4) gives 0.707, as V2-Lite's folder does."""

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

PRESETS: dict[str, tuple[type[TeacherConfig], dict[str, Any]]] = {
    "mini": (TeacherConfig, MINI),
    "v3": (TeacherConfig, V3),
    "r1": (TeacherConfig, V3),
    "v2": (TeacherV2Config, V2),
    "v2-lite": (TeacherV2Config, V2_LITE),
}
FORMATS: dict[str, type[TeacherConfig]] = {kind.model_type: kind for kind in (TeacherConfig, TeacherV2Config)}
"""Folder formats by the `model_type` of their `config.json`."""
_DERIVED = ("head_dim", "qk_head_dim", "num_key_value_heads")
_CLASS = ("architecture", "methods", "scoring")


def preset(name: str, **overrides: Any) -> TeacherConfig:
    """A preset with some keys replaced. Raises UserError for a name or key that does not exist."""
    if name not in PRESETS:
        raise UserError(f"preset {name}: unknown{did_you_mean(name, PRESETS)}; there are {', '.join(PRESETS)}")
    kind, values = PRESETS[name]
    known = [key for key in TeacherConfig.__annotations__ if key not in (*_DERIVED, *_CLASS)]
    for key in overrides:
        if key not in known:
            raise UserError(f"config key {key}: unknown{did_you_mean(key, known)}")
    return kind(**{**values, **overrides})


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
    "moe_layer_freq",
    "n_group",
    "topk_group",
    "max_position_embeddings",
)
_MOST = {"num_hidden_layers": 1000, "num_nextn_predict_layers": 1000, "max_position_embeddings": 10**9}
_MOST_OTHERWISE = 10**6
"""Beyond these a model takes minutes to count or a tensor more bytes than 64 bits tell; no published one comes near."""


def _check(config: TeacherConfig) -> None:
    """Refuse shapes that cannot be built, naming the key."""
    for key in _POSITIVE:
        value = getattr(config, key)
        most = _MOST.get(key, _MOST_OTHERWISE)
        if type(value) is not int or not 1 <= value <= most:
            raise UserError(f"config key {key}: {value!r}, expected a whole number from 1 to {most:,}")
    query = config.q_lora_rank
    if query is not None and (type(query) is not int or not 1 <= query <= _MOST_OTHERWISE):
        raise UserError(f"config key q_lora_rank: {query!r}, expected null or a whole number up to {_MOST_OTHERWISE:,}")
    if config.num_key_value_heads != config.num_attention_heads:
        raise UserError(
            f"config key num_key_value_heads: {config.num_key_value_heads}, "
            f"expected num_attention_heads ({config.num_attention_heads})"
        )
    if config.hidden_act != "silu":
        raise UserError(f"config key hidden_act: {config.hidden_act!r}, expected 'silu'")
    if config.qk_rope_head_dim % 2:
        raise UserError(f"config key qk_rope_head_dim: {config.qk_rope_head_dim}, expected an even number")
    further = config.num_nextn_predict_layers
    most = _MOST["num_nextn_predict_layers"]
    if type(further) is not int or not 0 <= further <= most:
        raise UserError(f"config key num_nextn_predict_layers: {further!r}, expected 0 to {most:,}")
    if isinstance(config, TeacherV2Config) and (further or not config.rope_interleave):
        key, known = ("num_nextn_predict_layers", 0) if further else ("rope_interleave", True)
        raise UserError(f"config key {key}: {getattr(config, key)}, expected {known} for model_type deepseek_v2")
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind not in ("default", "yarn"):
        raise UserError(f"config key rope_parameters.rope_type: {kind!r}, expected 'default' or 'yarn'")
    _check_routing(config)


def _check_routing(config: TeacherConfig) -> None:
    if config.scoring_func != config.scoring:
        raise UserError(
            f"config key scoring_func: {config.scoring_func!r}, expected {config.scoring!r} "
            f"for model_type {config.model_type}"
        )
    if config.topk_method not in config.methods:
        raise UserError(
            f"config key topk_method: {config.topk_method!r}, expected {' or '.join(map(repr, config.methods))} "
            f"for model_type {config.model_type}"
        )
    experts, groups, kept = config.n_routed_experts, config.n_group or 1, config.topk_group or 1
    least = 2 if config.topk_method == "noaux_tc" else 1
    if experts % groups or experts // groups < least:
        raise UserError(
            f"config key n_group: {groups}, "
            f"expected a divisor of n_routed_experts ({experts}) of at least {least} experts each"
        )
    if not 1 <= kept <= groups:
        raise UserError(f"config key topk_group: {kept}, expected 1 to n_group ({groups})")
    reachable = kept * (experts // groups) if config.grouped else experts
    if not 1 <= config.num_experts_per_tok <= reachable:
        raise UserError(
            f"config key num_experts_per_tok: {config.num_experts_per_tok}, "
            f"expected 1 to {reachable}, the experts in topk_group groups"
        )
