"""What a training step costs: operations, hours and memory, from shapes and a table alone.

Operations are counted the usual way (arXiv 2001.08361, section 2.1): a token costs 2 for each weight it is
multiplied with, forward, and twice that backward; a second forward where activations are computed again. Attention
over the row and the optimizer are not in it. Hours are operations over what a GPU is said to reach: `UTILIZATION` of
its data sheet. Nothing here was timed on a GPU. Weights, gradients and optimizer states are exact; activations are
what autograd would keep of one pass at most. Knows no model: shapes come in from outside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from distill.plan import GB, RESERVED, EngineShape, Hardware
from distill.records import Record
from distill.sampling.teacher_forcing import CALL_TOKENS, HEAD_VALUES
from distill.train.logits import LogitsConfig
from distill.train.lora import LoraConfig
from distill.train.on_policy_table import OnPolicyConfig
from distill.train.rl import RlConfig
from distill.train.schedule import WHOLE_LOGITS, TrainConfig
from distill.train.sft_table import SftConfig
from distill.train.zero import read_zero, stage_of

FORWARD, BACKWARD = 2, 4
"""Operations a weight and token."""
WIDE = 4
"""Bytes of a weight, a gradient, a moment: float32 whatever the products run in."""
HELD = {"full": float(WIDE), "int8": 1.0, "nf4": 0.5 + WIDE / 64}
"""Bytes of a frozen number under adapters; 4 bits share a scale among 64."""
TFLOPS = 989.0
"""bfloat16 products without sparsity of an H100, H200 or H800, by their data sheets, in 10^12 a second."""
UTILIZATION = 0.33
"""Share of `TFLOPS` that DeepSeek-V3's published training implies by this arithmetic (arXiv 2412.19437, table 1):
14.8e12 tokens x 6 x 37e9 in 2.788e6 H800 hours are 327e12 a second on each GPU. V3 multiplied mostly in FP8, whose
peak is twice as high."""
BF16_KEPT = 3
"""Bytes of a kept number under autocast: products keep bfloat16, norms and the residual stream float32. 2.3 to 3.0
were kept in the shapes of tests/test_estimate.py."""
MILLION = 10**6
"""Tokens a `logits` step is estimated for: how many its examples have is not known before they exist."""
LOGIT_COPIES = 3
"""Arrays as large as the logits held at once in the loss: as computed, in float32, their gradient."""


@dataclass(frozen=True, slots=True)
class TrainShape:
    """A model as training sees it."""

    what: str
    matrices: int
    """Numbers Muon would train, routed experts left out."""
    expert_matrices: int
    """Numbers of the routed experts, all of them."""
    rest: int
    """Numbers AdamW trains whatever the table says: embedding, head, routers, vectors."""
    multiplied: int
    """Weights one token is multiplied with: of the experts those it chooses; the head, and no embedding."""
    further: int
    """The same for the modules of further tokens, the head counted once a module."""
    vocabulary: int
    layer_values: tuple[int, ...]
    """Numbers autograd keeps of a token, layer by layer."""
    width: int
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Linear layers that may get an adapter, by name: numbers, and inputs plus outputs, over all layers."""

    @property
    def parameters(self) -> int:
        """Numbers trained."""
        return self.matrices + self.expert_matrices + self.rest


@dataclass(frozen=True, slots=True)
class Rollout:
    """What sampling costs beside training, of `rl`."""

    seconds: float
    """At least, from memory bandwidth, over the whole run."""
    engine_bytes: float
    """Of the engine beside the model: folded weights and cache."""


class TrainEstimate(Record):
    """One training step of a recipe on so many GPUs."""

    step: str
    stage: str
    what: str
    gpus_used: int
    tokens: int
    """Trained on, at most."""
    flops: float
    hours: float
    """Of the whole step, sampling included."""
    sampling_hours: float
    """`rl`, `on-policy`: of these, at least so many for rollouts."""
    weight_gb: float
    """This and the next on each GPU."""
    gradient_gb: float
    optimizer_gb: float
    activation_gb: float
    beside_gb: float
    """`rl`, `on-policy`: the engine's weights and cache, and the model it is held to, or its teacher."""
    fits: bool
    cost: float | None
    """GPU hours times the price that was given."""
    adapters: int = 0
    """Numbers of the adapters, which alone are trained where there are any."""
    longest: int | None = None
    """`sft`: tokens of the longest row the table allows, where a pass of full batches holds fewer."""
    longest_gb: float | None = None
    """Memory of a GPU while it trains on such a row."""

    @property
    def total_gb(self) -> float:
        """Memory of each GPU."""
        return self.weight_gb + self.gradient_gb + self.optimizer_gb + self.activation_gb + self.beside_gb


def estimate_training(
    step: str,
    stage: str,
    config: TrainConfig,
    shape: TrainShape,
    hardware: Hardware,
    *,
    tflops: float,
    utilization: float,
    prompt_tokens: int,
    rollout: Rollout | None = None,
    teacher: TrainShape | None = None,
    price: float | None = None,
) -> TrainEstimate:
    """The row of one step. `prompt_tokens`: of a prompt that is sampled from, assumed. `teacher`: who corrects an
    `on-policy` step on the same GPU. `price`: of one GPU for an hour.
    """
    tokens, at_once = _tokens(config, prompt_tokens)
    experts_over, ranks = getattr(config, "expert_parallel", 1), _processes(config)
    multiplied = shape.multiplied + (shape.further if getattr(config, "mtp_loss", 0) else 0)
    lora = config.lora if isinstance(config, SftConfig) else None
    backward = BACKWARD if lora is None else BACKWARD // 2  # frozen weights need no gradient of their own
    passes = FORWARD + backward + (FORWARD if config.gradient_checkpointing else 0)
    held_to = isinstance(config, RlConfig) and config.beta > 0
    if isinstance(config, RlConfig):
        remembered = config.updates > 1 or config.correction > 0
        passes = config.updates * passes + FORWARD * (held_to + remembered)
    flops = float(tokens) * multiplied * passes
    flops += float(tokens) * FORWARD * (teacher.multiplied if teacher is not None else 0)
    sampling = rollout.seconds / 3600 if rollout else 0.0
    hours = flops / (tflops * 10**12 * utilization * ranks * 3600) + sampling
    own = shape.matrices + shape.expert_matrices // experts_over
    moments = own + 2 * shape.rest if config.optimizer == "muon" else 2 * (own + shape.rest)
    weights = float((own + shape.rest) * WIDE)
    trained, adapters = weights, 0
    if lora is not None:
        frozen, adapters = _adapted(lora, shape)
        moments = adapters if config.optimizer == "muon" else 2 * adapters
        weights += frozen * (HELD[lora.base] - WIDE) + adapters * WIDE
        trained = float(adapters * WIDE)
    zero = _zero(config)
    shares = [ranks if zero >= stage else 1 for stage in (3, 2, 1)]  # of weights, gradients, optimizer states
    kept, gradients = weights / shares[0], trained / shares[1]
    states = (moments * WIDE + (weights if zero else 0)) / shares[2]  # DeepSpeed steps on a copy of its share
    beside = (rollout.engine_bytes if rollout else 0.0) + (weights if held_to else 0)
    if teacher is not None and isinstance(config, OnPolicyConfig):
        beside += teacher.parameters * _bytes(config.dtype)
    activations = _activations(config, shape, at_once // ranks)
    total = kept + gradients + states + activations + beside
    longest = getattr(config, "max_length", 0)
    longer = _activations(config, shape, longest) - activations if longest > at_once // ranks else None
    return TrainEstimate(
        step=step,
        stage=stage,
        what=shape.what,
        gpus_used=ranks,
        tokens=tokens,
        flops=flops,
        hours=hours,
        sampling_hours=sampling,
        weight_gb=kept / GB,
        gradient_gb=gradients / GB,
        optimizer_gb=states / GB,
        activation_gb=activations / GB,
        beside_gb=beside / GB,
        adapters=adapters,
        longest=None if longer is None else longest,
        longest_gb=None if longer is None else (total + longer) / GB,
        fits=total <= hardware.gpu_gb * GB * (1 - RESERVED) and ranks <= hardware.gpus,
        cost=None if price is None else hours * ranks * price,
    )


def _adapted(lora: LoraConfig, shape: TrainShape) -> tuple[int, int]:
    """Numbers of the layers that have an adapter, and of all adapters."""
    sizes = [size for kind, size in shape.layers.items() if not lora.targets or kind in lora.targets]
    return sum(numbers for numbers, _ in sizes), lora.rank * sum(ends for _, ends in sizes)


def _processes(config: TrainConfig) -> int:
    return max(getattr(config, "expert_parallel", 1), getattr(config, "data_parallel", 1))


def _zero(config: TrainConfig) -> int:
    """ZeRO's stage, 0 without it; of what is offloaded a GPU holds as much while it is used, so it counts here."""
    name = getattr(config, "deepspeed", None)
    return stage_of(read_zero(name, bf16=False)) if name is not None else 0


def estimate_scoring(
    step: str,
    config: LogitsConfig,
    shape: TrainShape,
    hardware: Hardware,
    *,
    tflops: float,
    utilization: float,
    price: float | None = None,
) -> TrainEstimate:
    """The row of a `logits` step, for a million tokens: the teacher reads and nothing is trained."""
    flops = float(MILLION) * FORWARD * shape.multiplied
    hours = flops / (tflops * 10**12 * utilization * 3600)
    weights = shape.parameters * _bytes(config.dtype)
    activations = CALL_TOKENS * max(shape.layer_values) * _bytes(config.dtype) + HEAD_VALUES * LOGIT_COPIES * WIDE
    return TrainEstimate(
        step=step,
        stage="logits",
        what=shape.what,
        gpus_used=1,
        tokens=MILLION,
        flops=flops,
        hours=hours,
        sampling_hours=0.0,
        weight_gb=weights / GB,
        gradient_gb=0.0,
        optimizer_gb=0.0,
        activation_gb=activations / GB,
        beside_gb=0.0,
        fits=weights + activations <= hardware.gpu_gb * GB * (1 - RESERVED),
        cost=None if price is None else hours * price,
    )


def _bytes(dtype: str) -> int:
    return WIDE if dtype == "float32" else 2


def rollout_of(
    config: RlConfig | OnPolicyConfig, shape: TrainShape, engine: EngineShape, hardware: Hardware, prompt_tokens: int
) -> Rollout:
    """What sampling costs `rl` or `on-policy`. `engine`: the model as the engine runs it, on one GPU.

    Completions of one step are sampled `rows` at a time, each to its full length, half of it in the cache on average.
    """
    wanted = config.prompts_per_step * config.samples
    length = prompt_tokens + config.max_tokens
    room = int(config.cache_gb * GB // (length * engine.cache_bytes_per_token))
    rows = max(1, min(config.slots, wanted, room))
    step = engine.step_bytes(rows, prompt_tokens + config.max_tokens / 2) / (hardware.bandwidth_tbs * 10**12)
    seconds = config.steps * -(-wanted // rows) * config.max_tokens * step
    cache = rows * length * engine.cache_bytes_per_token
    folded = max(0, engine.weight_bytes - shape.parameters * WIDE)
    return Rollout(seconds, cache + folded)


def _tokens(config: TrainConfig, prompt_tokens: int) -> tuple[int, int]:
    """Tokens of the run, and of one pass over all processes; both at most."""
    if isinstance(config, SftConfig):
        steps = config.steps or -(-(config.tokens or 0) // config.tokens_per_batch)
        return config.tokens or steps * config.tokens_per_batch, -(-config.tokens_per_batch // config.accumulation)
    assert isinstance(config, RlConfig | OnPolicyConfig), "the stages that sample"
    rows = config.steps * config.prompts_per_step * config.samples
    return rows * (prompt_tokens + config.max_tokens), config.tokens_per_pass


def _activations(config: TrainConfig, shape: TrainShape, tokens: int) -> float:
    """Bytes autograd keeps of one pass, the logits, and autocast's copy of every matrix."""
    lora = config.lora if isinstance(config, SftConfig) else None
    held = 0 if lora is None or lora.base == "full" else _adapted(lora, shape)[0]  # made wide one layer at a time
    bytes_, copies = (BF16_KEPT, 2 * (shape.matrices - held)) if config.bf16 else (WIDE, 0)
    kept = sum(shape.layer_values)
    if config.gradient_checkpointing:
        kept = len(shape.layer_values) * shape.width + max(shape.layer_values)
    logits = min(tokens * shape.vocabulary, WHOLE_LOGITS) * LOGIT_COPIES * WIDE
    return float(tokens * kept * bytes_ + logits + copies)


def table(rows: list[TrainEstimate], hardware: Hardware, *, tflops: float, utilization: float) -> tuple[str, ...]:
    """Plain aligned text for the screen: a row a step, then what was assumed."""
    width = max(len("training"), *(len(row.step) for row in rows))
    priced = any(row.cost is not None for row in rows)
    head = (
        f"{'training':<{width}} {'stage':<9} GPUs {'tokens':>15} {'FLOPs':>8} {'hours':>9} {'weights':>9} "
        f"{'gradients':>9} {'optimizer':>9} {'activ.':>9} {'beside':>9} {'GB a GPU':>9} fits"
        + (f" {'cost':>10}" if priced else "")
    )
    lines = [
        f"{row.step:<{width}} {row.stage:<9} {row.gpus_used:>4} {row.tokens:>15,} {row.flops:>8.2g} {row.hours:>9.3g} "
        f"{row.weight_gb:>9.3g} {row.gradient_gb:>9.3g} {row.optimizer_gb:>9.3g} {row.activation_gb:>9.3g} "
        f"{row.beside_gb:>9.3g} {row.total_gb:>9.3g} {'yes' if row.fits else 'no':<4}"
        + (f" {row.cost:>10,.2f}" if row.cost is not None else "")
        for row in rows
    ]
    told = [
        f"hours: {utilization:.0%} of {tflops:g} TFLOP/s on each GPU; assumed, not measured",
        "tokens at most: full batches, and in rl and on-policy completions of max_tokens",
        "FLOPs: 6 for each weight a token is multiplied with, 8 with gradient_checkpointing; attention is not in it",
        *(["of a frozen weight under adapters 2 fewer"] if any(row.adapters for row in rows) else []),
        "memory: weights, gradients and optimizer exact, in float32; activations of one pass estimated, unpadded",
        f"fits: within {1 - RESERVED:.0%} of {hardware.gpu_gb:g} GB",
    ]
    if any(row.stage == "logits" for row in rows):
        told.append("logits: for a million tokens; the teacher only reads")
    if any(row.stage == "on-policy" for row in rows):
        told.append("on-policy: every step on the student's own turns; its teacher reads each and is held beside")
    for row in rows:
        if row.longest is not None and row.longest_gb is not None:
            fits = "fits" if row.longest_gb <= hardware.gpu_gb * (1 - RESERVED) else "does not fit"
            told.append(
                f"a row of [{row.step}] may have max_length = {row.longest:,} tokens: then {row.longest_gb:.3g} GB, "
                f"which {fits}"
            )
    if any(row.sampling_hours for row in rows):
        shares = ", ".join(f"{row.sampling_hours:.3g} of [{row.step}]" for row in rows if row.sampling_hours)
        told.append(f"rollouts: at least {shares} hours, from memory bandwidth alone")
    return (head, *lines, "assumed:", *(f"  - {line}" for line in told))
