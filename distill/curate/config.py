"""The table of a curate step."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from distill.curate.curriculum import Order
from distill.curate.decontaminate import Method
from distill.recipe import StageConfig
from distill.selection import Instruction


class CurateConfig(StageConfig):
    """Which traces become examples, and in what order."""

    inputs: ClassVar[tuple[str, ...]] = ("traces", "problems", "against", "tokenizer", "measures")
    traces: str | tuple[str, ...]
    """Harvest steps."""
    problems: str | tuple[str, ...]
    """Steps or files with the problems the traces answer."""
    against: str | tuple[str, ...]
    """Steps or files whose test-split problems the examples must not touch."""
    tokenizer: str | None = None
    """Checkpoint whose tokenizer counts `max_tokens`; the student's."""
    measures: tuple[str, ...] = ()
    """Measure steps over these traces; `max_perplexity` and `order = "loss"` ask the first."""
    keep: Literal["verified", "all"] = "verified"
    """verified: judged correct; all: every completion that ended by itself, whatever its verdict."""
    in_process: Literal["keep", "drop"] = "drop"
    """Programs judged correct inside their judge's own process, where a hostile one could forge its verdict."""
    thought: Literal["keep", "drop"] = "keep"
    """drop leaves the answer alone, for a student that is not to think aloud."""
    instruction: Instruction = "none"
    """What the user turn says after the problem."""
    decontaminate: Method = "13-gram"
    """How held-out problems are looked for; by-construction is for families split by a stable hash."""
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
        if not self.against:
            raise ValueError("against: expected at least one step or file of held-out problems, got none")
        if len(set(self.orders) | {self.order}) <= len(self.orders):
            raise ValueError(f"orders: expected each once and none of them {self.order!r}, got {list(self.orders)}")
        if "loss" in (self.order, *self.orders) and not self.measures:
            raise ValueError("order loss: needs `measures`, which names the step that measured the losses")
        if self.max_perplexity is not None and not self.measures:
            raise ValueError("max_perplexity: needs `measures`, which names the step that measured the losses")
        if (self.max_tokens is None) != (self.tokenizer is None):
            raise ValueError("max_tokens and tokenizer: either both or neither")
        return self
