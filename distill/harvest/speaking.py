"""Speaking: the keys of a table that say who is asked and how, whether a harvest has one teacher or several."""

from typing import Literal, Self

from pydantic import Field, model_validator

from distill.records import Params, unused
from distill.sampling.endpoint import EndpointConfig
from distill.sampling.replay import ReplayConfig
from distill.sampling.table import ENGINE_KEYS, EngineConfig
from distill.selection import Instruction

SamplerName = Literal["engine", "oracle", "endpoint", "replay", "transformers"]
NEEDS: dict[str, tuple[SamplerName, ...]] = {
    "model": ("engine", "transformers"),
    "error_rate": ("oracle",),
    "endpoint": ("endpoint",),
    "replay": ("replay",),
}
"""The one field each kind of sampler cannot do without."""
KNOWN_TO: dict[str, tuple[SamplerName, ...]] = {
    **dict.fromkeys(ENGINE_KEYS, ("engine",)),
    "dtype": ("engine", "transformers"),
    "repetition_penalty": ("engine", "transformers"),
    "top_logprobs": ("engine",),
    "top_k": ("engine", "endpoint", "transformers"),
    "min_p": ("engine", "endpoint", "transformers"),
    "batch": ("transformers",),
    "terse_rate": ("oracle",),
    "repeat_rate": ("oracle",),
}
"""Keys that mean nothing to other samplers: servers have no common word for some of them."""
READ_BY: dict[str, tuple[SamplerName, ...]] = {
    "memory": ("engine", "endpoint", "transformers"),
    "forcing": ("engine", "endpoint", "transformers"),
    "verify": ("engine", "endpoint", "transformers", "oracle"),
}
"""Samplers that read what a table has them shown. The oracle answers a check as it answers any problem: afresh."""
WHO = ("sampler", *NEEDS, *(key for key in KNOWN_TO if key not in Params.model_fields))
"""Keys that say who is asked; the others say how."""
HOW = (*(key for key in Params.model_fields if key != "stop"), "instruction", "seed", "samples")
"""Keys a teacher among several has from the harvest's own table unless it says otherwise."""


class SpeakerConfig(EngineConfig):
    """Who is asked, and how it is asked to speak."""

    model: str | None = None
    """Checkpoint of the samplers `engine` and `transformers`."""
    sampler: SamplerName = "engine"
    """engine: our own over `model`; transformers: generate over any causal model's folder; oracle: a family's known
    solution; endpoint: a server; replay: a recording."""
    error_rate: float | None = Field(default=None, ge=0.0, le=1.0)
    """Share of wrong traces the oracle writes on purpose."""
    terse_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the oracle's traces that jump to the answer with an empty thought."""
    repeat_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the steps of the oracle's thoughts that are said twice, so that right traces of a problem differ."""
    endpoint: EndpointConfig | None = None
    """Server of the sampler `endpoint`."""
    replay: ReplayConfig | None = None
    """Recording of the sampler `replay`."""
    batch: int | None = Field(default=None, gt=0, exclude_if=unused)
    """Completions `transformers` generates side by side, 32 unless it says otherwise; all wait for the longest."""
    instruction: Instruction = "none"
    """What the user turn says after the problem; step-by-step asks for a boxed answer."""
    temperature: float = Field(default=1.0, ge=0.0)
    """0 is greedy, 1 the sampler's own distribution."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the likeliest tokens that hold this share of the probability."""
    top_k: int = Field(default=0, ge=0)
    """Sample from so many likeliest tokens; 0 from all."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    """Sample from tokens at least this share as likely as the likeliest."""
    repetition_penalty: float | None = Field(default=None, gt=0.0)
    """Above 1 makes tokens of prompt and completion less likely to come again; `engine` and `transformers`."""
    top_logprobs: int | None = Field(default=None, gt=0)
    """Keep so many likeliest tokens with their log-probabilities at each place; `engine` only."""
    max_tokens: int = Field(gt=0)
    """Longest completion, in the sampler's tokens."""
    seed: int = Field(default=0, ge=0)
    """Added to the recipe's seed, to draw other samples of the same problems."""

    @property
    def params(self) -> Params:
        """How the sampler is asked to speak."""
        keys = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "top_logprobs")
        return Params(**{key: getattr(self, key) for key in keys})

    def says(self, key: str) -> bool:
        """Whether the table has a key."""
        return key in self.model_fields_set

    def check_sampler(self) -> None:
        """Raise ValueError where a key and the sampler do not go together."""
        for key, samplers in NEEDS.items():
            if self.sampler in samplers and getattr(self, key) is None:
                raise ValueError(f"{key}: missing, sampler {self.sampler!r} needs it")
            if self.sampler not in samplers and getattr(self, key) is not None:
                only = " and ".join(repr(name) for name in samplers)
                raise ValueError(f"{key}: only sampler {only} has a use for it, got sampler {self.sampler!r}")
        for key, samplers in KNOWN_TO.items():
            if self.sampler not in samplers and self.says(key):
                known = " and ".join(samplers)
                raise ValueError(f"{key}: sampler {self.sampler!r} has no use for it, only {known}")
        if self.sampler == "transformers" and self.dtype == "fp8":
            raise ValueError("dtype: fp8 is the engine's; sampler 'transformers' takes float32, bfloat16 or float16")


class TeacherTable(SpeakerConfig):
    """One of several teachers."""

    samples: int = Field(default=1, gt=0)
    """Traces of each problem it is asked about."""
    share: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the problems it is asked about: teachers that have one divide the problems among them."""

    @model_validator(mode="after")
    def _keys_fit_the_sampler(self) -> Self:
        self.check_sampler()
        return self

    def says(self, key: str) -> bool:
        """Whether a key differs from its default: what a manifest holds is read again with all keys."""
        return bool(getattr(self, key) != type(self).model_fields[key].default)
