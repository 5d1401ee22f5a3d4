"""Plan: what an engine step needs on given GPUs and how fast it can be at most, from shapes alone.

Sizes are exact: the weights a GPU keeps and the cache of a token. Speed is a bound: decoding reads weights
and cache once a step, so a step takes at least their bytes over the memory's bandwidth. Of the routed
experts it reads those that at least one of B tokens chose, E (1 - (1 - K/E)^B) of E when choices are spread
evenly. Not covered: prefill, computation, sums between GPUs, waiting for the judge; training steps. Knows
no model: shapes come in from outside.
"""

from collections.abc import Callable
from dataclasses import dataclass

from distill.errors import UserError
from distill.records import Record

GB = 10**9
RESERVED = 0.05
"""Share of a GPU's memory left alone, for its context, the libraries' buffers and fragmentation. Not measured."""
CONTEXTS = (4096, 8192, 16384, 32768, 65536, 131072)
"""Lengths of prompt and completion every plan shows, as far as the model knows them."""
MOST_GPUS = 1024
"""Where the search for enough GPUs ends."""


class Hardware(Record):
    """GPUs of one kind."""

    gpus: int
    gpu_gb: float
    """Memory of each, 10^9 bytes."""
    bandwidth_tbs: float
    """What one reads from its memory, 10^12 bytes a second."""


@dataclass(frozen=True, slots=True)
class EngineShape:
    """What one model costs each GPU it is spread over; bytes are those of the GPU that holds most."""

    what: str
    """Model, dtype and split, in words."""
    gpus: int
    """How many it is spread over."""
    weight_bytes: int
    always_bytes: int
    """Of the weights, what every step reads."""
    expert_bytes: int
    """One routed expert, on all its GPUs together; 0 without experts."""
    experts: int
    chosen: int
    """Experts a token chooses."""
    expert_layers: int
    cache_bytes_per_token: int
    prefill_bytes_per_token: int
    """Activations of one prompt token while the prompt is read."""
    row_bytes: int
    """Activations of one row of a step: logits and what sampling makes of them."""
    scratch_bytes: int
    """Memory every call uses again, whatever its size."""
    positions: int
    """Longest sequence the model knows."""

    def step_bytes(self, rows: int, cached: float) -> float:
        """What one GPU reads in a step of `rows` rows that hold `cached` tokens each, on average over GPUs."""
        spread = self.experts * self.expert_bytes * self.expert_layers / self.gpus
        share = 1 - (1 - self.chosen / self.experts) ** rows if self.experts else 0.0
        return self.always_bytes + share * spread + rows * cached * self.cache_bytes_per_token


class Use(Record):
    """How a step uses the engine."""

    step: str
    max_tokens: int
    """Longest completion."""
    prompt_tokens: int
    """Longest prompt, assumed: only the tokenizer knows."""
    most_rows: int
    """Rows the engine samples together at most."""
    prefill_tokens: int
    """Prompt tokens it reads in one call at most."""
    cache_gb: float
    """Memory the step gives its cache at most, 10^9 bytes."""


class Fit(Record):
    """One context length: how many rows run at once, and how fast they can be together."""

    context: int
    """Prompt and completion."""
    rows: int
    """With the cache the step's table gives."""
    tokens_per_second: float
    most_rows: int
    """With all memory that is free for a cache."""
    most_tokens_per_second: float


class Estimate(Record):
    """What a step needs on each GPU, and what fits beside it."""

    step: str
    what: str
    gpus_used: int
    gpu_gb: float
    bandwidth_tbs: float
    weight_gb: float
    activation_gb: float
    """While prompts are read, or a step of the most rows is sampled."""
    cache_bytes_per_token: int
    cache_gb: float
    """What the step gives its cache: all of `cache_gb` of its table, it must fit."""
    free_gb: float
    """What would be left for the cache."""
    cache_tokens: int
    single_tokens_per_second: float
    """One row with an empty cache: the bound of latency."""
    fits: tuple[Fit, ...]
    assumptions: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """Plain aligned text for the screen."""
        table = [
            f"{fit.context:>9,} {fit.rows:>10,} {fit.tokens_per_second:>10,.0f} {fit.most_rows:>10,} "
            f"{fit.most_tokens_per_second:>10,.0f}"
            for fit in self.fits
        ]
        return (
            f"[{self.step}] {self.what}",
            f"each of {self.gpus_used} GPUs, {self.gpu_gb:g} GB at {self.bandwidth_tbs:g} TB/s:",
            f"  weights      {self.weight_gb:>8.2f} GB",
            f"  activations  {self.activation_gb:>8.2f} GB",
            f"  cache        {self.cache_gb:>8.2f} GB for {self.cache_tokens:,} tokens of "
            f"{self.cache_bytes_per_token:,} bytes; {self.free_gb:.2f} GB are free for it",
            f"one row, nothing cached: at most {self.single_tokens_per_second:,.0f} tokens/s",
            f"  {'':>9} {'cache_gb':>21} {'all that is free':>21}",
            f"  {'context':>9} {'rows':>10} {'tokens/s':>10} {'rows':>10} {'tokens/s':>10}",
            *(f"  {line}" for line in table),
            "assumed:",
            *(f"  - {assumption}" for assumption in self.assumptions),
        )


def estimate_engine(use: Use, hardware: Hardware, shape_on: Callable[[int], EngineShape]) -> Estimate:
    """What an engine step needs and what fits. `shape_on` gives the model's shape on so many GPUs.

    Raises UserError when not one row of the step's length fits, naming how many GPUs would do.
    """
    shape = shape_on(hardware.gpus)
    needed = use.prompt_tokens + use.max_tokens
    if needed > shape.positions:
        raise UserError(
            f"[{use.step}] max_tokens {use.max_tokens} and prompts of {use.prompt_tokens}: beyond the "
            f"{shape.positions} positions of {shape.what}"
        )
    room = _room(shape, use, hardware)
    if room < needed * shape.cache_bytes_per_token:
        raise UserError(_too_small(use, hardware, shape_on, shape))
    if room < use.cache_gb * GB:
        raise UserError(f"[{use.step}] cache_gb {use.cache_gb:g}: {room / GB:.2f} GB are free for it on each GPU")
    bandwidth = hardware.bandwidth_tbs * 10**12

    def at_once(context: int, cache: float) -> tuple[int, float]:
        rows = min(use.most_rows, int(cache // (context * shape.cache_bytes_per_token)))
        return rows, round(rows * bandwidth / shape.step_bytes(rows, context / 2), 1)

    contexts = sorted({needed, *(length for length in CONTEXTS if length <= shape.positions)})
    fits = []
    for context in contexts:
        rows, speed = at_once(context, use.cache_gb * GB)
        most, most_speed = at_once(context, room)
        fits.append(
            Fit(
                context=context,
                rows=rows,
                tokens_per_second=speed,
                most_rows=most,
                most_tokens_per_second=most_speed,
            )
        )
    return Estimate(
        step=use.step,
        what=shape.what,
        gpus_used=shape.gpus,
        gpu_gb=hardware.gpu_gb,
        bandwidth_tbs=hardware.bandwidth_tbs,
        weight_gb=round(shape.weight_bytes / GB, 3),
        activation_gb=round(_activations(shape, use) / GB, 3),
        cache_bytes_per_token=shape.cache_bytes_per_token,
        cache_gb=use.cache_gb,
        free_gb=round(room / GB, 3),
        cache_tokens=int(use.cache_gb * GB // shape.cache_bytes_per_token),
        single_tokens_per_second=round(bandwidth / shape.step_bytes(1, 0), 1),
        fits=tuple(fits),
        assumptions=_assumptions(use, hardware, shape),
    )


def _activations(shape: EngineShape, use: Use) -> int:
    prefill = use.prefill_tokens * shape.prefill_bytes_per_token
    return shape.scratch_bytes + max(prefill, use.most_rows * shape.row_bytes)


def _room(shape: EngineShape, use: Use, hardware: Hardware) -> float:
    return hardware.gpu_gb * GB * (1 - RESERVED) - shape.weight_bytes - _activations(shape, use)


def _too_small(use: Use, hardware: Hardware, shape_on: Callable[[int], EngineShape], shape: EngineShape) -> str:
    needed = use.prompt_tokens + use.max_tokens
    told = (
        f"[{use.step}] {shape.what}: {shape.weight_bytes / GB:.1f} GB of weights, "
        f"{_activations(shape, use) / GB:.1f} GB of activations and "
        f"{needed * shape.cache_bytes_per_token / GB:.1f} GB for one row of {needed} tokens on each GPU, of "
        f"{hardware.gpu_gb * (1 - RESERVED):.1f} GB that may be used"
    )
    count = hardware.gpus
    while (count := count + 1) <= MOST_GPUS:
        try:
            larger = shape_on(count)
        except UserError:  # the model cannot be split over so many: the next number is tried
            continue
        if _room(larger, use, hardware) >= needed * larger.cache_bytes_per_token:
            return f"{told}; {count} such GPUs would do"
        if larger.gpus == shape.gpus:
            return f"{told}; the step uses {shape.gpus}, and more would change nothing"
    return f"{told}; not even {MOST_GPUS} such GPUs would do"


def _assumptions(use: Use, hardware: Hardware, shape: EngineShape) -> tuple[str, ...]:
    told = [
        "speeds are bounds from memory bandwidth alone, without computation, prefill and sums between GPUs",
        "no such speed was measured",
        f"prompts of at most {use.prompt_tokens:,} tokens, read {use.prefill_tokens:,} a call",
        f"at most {use.most_rows:,} rows at once; each has room for its whole context and is half full when read",
        f"{RESERVED:.0%} of each GPU's memory is left alone",
    ]
    if shape.experts:
        told.append(f"experts chosen evenly: {shape.chosen} of {shape.experts} a token, the same load on every GPU")
    if shape.gpus > 1:
        told.append("every GPU keeps the whole latent cache: it has no heads to split")
    if shape.gpus < hardware.gpus:
        told.append(f"{hardware.gpus - shape.gpus} of {hardware.gpus} GPUs idle: the step asks for {shape.gpus}")
    return tuple(told)
