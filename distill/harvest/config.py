"""The table of a harvest: who is asked, what, how often and how."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from distill.harvest.accounting import TURN
from distill.harvest.budget import BudgetConfig
from distill.harvest.forcing import ForcingConfig
from distill.harvest.memory import MemoryConfig
from distill.harvest.rounds import RoundsConfig
from distill.harvest.standing import MajorityConfig
from distill.harvest.verify import VerifyConfig
from distill.records import Params, unused
from distill.sampling.endpoint import EndpointConfig
from distill.sampling.replay import ReplayConfig
from distill.sampling.table import ENGINE_KEYS, EngineConfig
from distill.selection import Instruction, Selection

NEEDS = {"model": "engine", "error_rate": "oracle", "endpoint": "endpoint", "replay": "replay"}
"""The one field each kind of sampler cannot do without."""
ENGINE_ONLY = (*ENGINE_KEYS, "repetition_penalty", "top_logprobs")
"""Servers have no common word for these."""
ENGINE_OR_ENDPOINT = ("top_k", "min_p")
TABLES = ("rounds", "majority", "memory", "forcing", "verify")
"""Each of them makes a harvest go in rounds."""
READ_BY = {
    "memory": ("engine", "endpoint"),
    "forcing": ("engine", "endpoint"),
    "verify": ("engine", "endpoint", "oracle"),
}
"""Samplers that read what a table has them shown. The oracle answers a check as it answers any problem: afresh."""


class HarvestConfig(EngineConfig):
    """Who is asked, what, how often and how."""

    inputs: ClassVar[tuple[str, ...]] = ("problems", "model")
    limits: ClassVar[tuple[str, ...]] = ("budget",)
    problems: str
    """Step or file with the problems."""
    model: str | None = None
    """Checkpoint of the sampler `engine`."""
    sampler: Literal["engine", "oracle", "endpoint", "replay"] = "engine"
    """engine: our own over `model`; oracle: a family's known solution; endpoint: a server; replay: a recording."""
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
    select: Selection = Selection()
    """Which problems are asked."""
    instruction: Instruction = "none"
    """What the user turn says after the problem; step-by-step asks for a boxed answer."""
    samples: int = Field(default=1, gt=0)
    """Traces a problem."""
    temperature: float = Field(default=1.0, ge=0.0)
    """0 is greedy, 1 the sampler's own distribution."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the likeliest tokens that hold this share of the probability."""
    top_k: int = Field(default=0, ge=0)
    """Sample from so many likeliest tokens; 0 from all."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    """Sample from tokens at least this share as likely as the likeliest."""
    repetition_penalty: float | None = Field(default=None, gt=0.0)
    """Above 1 makes tokens of prompt and completion less likely to come again; `engine` only."""
    top_logprobs: int | None = Field(default=None, gt=0)
    """Keep so many likeliest tokens with their log-probabilities at each place; `engine` only."""
    max_tokens: int = Field(gt=0)
    """Longest completion, in the sampler's tokens."""
    seed: int = Field(default=0, ge=0)
    """Added to the recipe's seed, to draw other samples of the same problems."""
    defer_verdicts: bool = False
    """Only sample; the verdicts are drawn later from the stored traces."""

    rounds: RoundsConfig | None = Field(default=None, exclude_if=unused)
    """Adaptive rounds, instead of `samples` for every problem."""
    majority: MajorityConfig | None = Field(default=None, exclude_if=unused)
    """Labels for problems without gold, by vote."""
    memory: MemoryConfig | None = Field(default=None, exclude_if=unused)
    """Worked examples for hard problems."""
    forcing: ForcingConfig | None = Field(default=None, exclude_if=unused)
    """Truncated thoughts are continued."""
    verify: VerifyConfig | None = Field(default=None, exclude_if=unused)
    """Answers are checked by who gave them."""
    budget: BudgetConfig | None = Field(default=None, exclude_if=unused)
    """What it may cost; no part of what is sampled."""

    @model_validator(mode="after")
    def _fields_fit_the_sampler(self) -> "HarvestConfig":
        for key, sampler in NEEDS.items():
            if self.sampler == sampler and getattr(self, key) is None:
                raise ValueError(f"{key}: missing, sampler {sampler!r} needs it")
            if self.sampler != sampler and getattr(self, key) is not None:
                raise ValueError(f"{key}: only sampler {sampler!r} has a use for it, got sampler {self.sampler!r}")
        for keys, samplers in ((ENGINE_ONLY, ("engine",)), (ENGINE_OR_ENDPOINT, ("engine", "endpoint"))):
            for key in keys:
                if key in self.model_fields_set and self.sampler not in samplers:
                    raise ValueError(
                        f"{key}: sampler {self.sampler!r} has no use for it, only {' and '.join(samplers)}"
                    )
        for key in ("terse_rate", "repeat_rate"):
            if getattr(self, key) and self.sampler != "oracle":
                raise ValueError(f"{key}: only sampler 'oracle' has a use for it, got sampler {self.sampler!r}")
        return self

    @model_validator(mode="after")
    def _budget_has_room(self) -> "HarvestConfig":
        if self.budget is not None and self.budget.tokens is not None and self.budget.tokens < self.max_tokens:
            raise ValueError(
                f"budget.tokens: expected room for one sample (max_tokens {self.max_tokens}) or more, "
                f"got {self.budget.tokens}"
            )
        return self

    @model_validator(mode="after")
    def _rounds_make_sense(self) -> "HarvestConfig":
        for key, samplers in READ_BY.items():
            if getattr(self, key) is not None and self.sampler not in samplers:
                known = ", ".join(samplers)
                raise ValueError(f"{key}: sampler {self.sampler!r} does not read what it is shown; expected {known}")
        if self.in_rounds and self.defer_verdicts:
            raise ValueError("defer_verdicts: rounds are decided from verdicts; leave it out")
        if self.rounds is None:
            if self.memory is not None:
                raise ValueError("memory: needs rounds.samples of two rounds or more, to find what it shows")
            return self
        if "samples" in self.model_fields_set:
            raise ValueError("samples: rounds.samples says how many; give one of the two")
        if self.memory is not None and len(self.rounds.samples) < 2:
            raise ValueError("memory: needs rounds.samples of two rounds or more, to find what it shows")
        wanted, got = len(self.rounds.samples), len(self.rounds.temperatures)
        if got not in (0, wanted):
            raise ValueError(f"rounds.temperatures: expected one a round ({wanted}), got {got}")
        if self.rounds.budget_tokens is not None and self.rounds.budget_tokens < self.max_tokens:
            raise ValueError(
                f"rounds.budget_tokens: expected room for one sample (max_tokens {self.max_tokens}) or more, "
                f"got {self.rounds.budget_tokens}"
            )
        return self

    @property
    def in_rounds(self) -> bool:
        """Whether samples are decided on round by round."""
        return any(getattr(self, key) is not None for key in TABLES)

    @property
    def most_samples(self) -> int:
        """Samples of one problem that are asked for at once, at most."""
        return self.samples if self.rounds is None else max(self.rounds.samples)

    @property
    def longest(self) -> int:
        """Tokens that examples, the longest answer and a check of it may take beside a problem; an upper bound."""
        thought, shown, check = self.max_tokens, 0, 0
        if self.forcing is not None:
            thought += self.forcing.times * (self.forcing.max_tokens + len(self.forcing.say.encode()))
        if self.memory is not None:
            shown = self.memory.max_tokens + TURN * self.memory.shown
        if self.verify is not None:  # a token is a byte or more
            check = len(self.verify.instruction.encode()) + 2 * TURN + self.max_tokens
        return shown + thought + check

    @property
    def params(self) -> Params:
        """How the sampler is asked to speak."""
        keys = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "top_logprobs")
        return Params(**{key: getattr(self, key) for key in keys})
