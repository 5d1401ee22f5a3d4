"""The table of a curate step."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from distill.curate.content import ContentConfig
from distill.curate.curriculum import Order
from distill.curate.decontaminate import Method, Variants, check_told_twice
from distill.curate.near import NearConfig
from distill.curate.policies.config import Divergence, Policies, Scored
from distill.recipe import StageConfig
from distill.selection import Instruction

Off = Literal["off"]


class CurateConfig(StageConfig):
    """Which traces become examples, and in what order."""

    inputs: ClassVar[tuple[str, ...]] = (
        *("traces", "problems", "against", "tokenizer", "measures", "scores", "harm_scores"),
    )
    traces: str | tuple[str, ...]
    """Harvest or import steps."""
    problems: str | tuple[str, ...]
    """Steps or files with the problems the traces answer."""
    against: str | tuple[str, ...] = ()
    """Steps or files whose test-split problems the examples must not touch."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks of the data folder whose test problems they must not touch either; "benchmarks" is all of them."""
    tokenizer: str | None = None
    """Checkpoint whose tokenizer counts `max_tokens`; the student's."""
    measures: tuple[str, ...] = ()
    """Measure steps over these traces; `max_perplexity` and `order = "loss"` ask the first."""
    scores: str | None = None
    """Step or file with `{trace_id, score}` lines of a reward model or LLM judge, for the policy `scored`."""
    harm_scores: str | None = None
    """Step or file with `{trace_id, score}` lines of a judge of harm, 0 to 1, for the filter `content.harm`."""
    terms: Literal["refuse", "accept"] = "refuse"
    """Sources whose terms do not allow training; accept goes with their names in `accept_terms`."""
    accept_terms: tuple[str, ...] = ()
    """Names of sources that are learned from whatever their terms."""
    policies: Policies = ()
    """Which traces are taken of those every filter lets pass, in order, instead of `keep`; names or tables."""
    keep: Literal["verified", "all"] = "verified"
    """verified: judged correct; all: every completion that ended by itself, whatever its verdict."""
    in_process: Literal["keep", "drop"] = "drop"
    """Programs judged correct inside their judge's own process, where a hostile one could forge its verdict."""
    content: ContentConfig | Off = Field(default_factory=ContentConfig)
    """Filters of what a text says, each a table of its own."""
    near_prompts: NearConfig | Off = "off"
    """Drops the traces of problems that repeat an earlier problem in other words."""
    near_solutions: NearConfig | Off = "off"
    """Drops traces that repeat an earlier trace of their problem in other words."""
    thought: Literal["keep", "drop"] = "keep"
    """drop leaves the answer alone, for a student that is not to think aloud."""
    instruction: Instruction = "none"
    """What the user turn says after the problem."""
    decontaminate: Method = "13-gram"
    """How held-out problems are looked for; by-construction is for families split by a stable hash."""
    held_out_near: Variants = "drop"
    """Short held-out prompts with one word changed."""
    numbers_changed: Variants = "flag"
    """Held-out prompts with other numbers."""
    accept_unchecked: bool = False
    """The second word to `decontaminate = "none"`."""
    max_per_problem: int | None = Field(default=None, gt=0)
    """Examples a problem, the first ones sampled; None keeps all."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest example kept, in student tokens, prompt included; needs `tokenizer`."""
    max_perplexity: float | None = Field(default=None, ge=1.0)
    """Greatest perplexity under the model of the first of `measures`; traces it could not measure go too."""
    order: Order = "none"
    """level: easy first; length: short first; pass-rate: often solved first; loss: likely first; none: as the
    problems stand. Shuffled where equal."""
    orders: tuple[Order, ...] = ()
    """Further orders of the same examples, each an index that `order` of an sft step names."""
    first: tuple[str, ...] = ()
    """Families whose examples come before all others, for a curriculum that begins with them."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "CurateConfig":
        if not self.traces:
            raise ValueError("traces: expected at least one harvest step, got none")
        check_told_twice(self.decontaminate, self.accept_unchecked)
        if not self.against and not self.benchmarks and self.decontaminate != "none":
            raise ValueError("against: expected at least one step or file of held-out problems, or `benchmarks`")
        if len(set(self.orders) | {self.order}) <= len(self.orders):
            raise ValueError(f"orders: expected each once and none of them {self.order!r}, got {list(self.orders)}")
        if "loss" in (self.order, *self.orders) and not self.measures:
            raise ValueError("order loss: needs `measures`, which names the step that measured the losses")
        if self.max_perplexity is not None and not self.measures:
            raise ValueError("max_perplexity: needs `measures`, which names the step that measured the losses")
        if self.policies and "keep" in self.model_fields_set:
            raise ValueError("keep and policies: policies say what is kept; give one of the two")
        if any(isinstance(policy, Scored) for policy in self.policies) != (self.scores is not None):
            raise ValueError("scores and the policy 'scored': either both or neither")
        if self.harm_scores is not None and (self.content == "off" or self.content.harm == "off"):
            raise ValueError("harm_scores: the filter content.harm is off, so nothing would read them")
        for policy in self.policies:
            if isinstance(policy, Divergence) and not {policy.student, policy.teacher} <= set(self.measures):
                raise ValueError(
                    f"policy 'divergence': {policy.student!r} and {policy.teacher!r} must be in `measures`"
                )
        if (self.max_tokens is None) != (self.tokenizer is None):
            raise ValueError("max_tokens and tokenizer: either both or neither")
        return self
