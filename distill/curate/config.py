"""The table of a curate step."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from distill.curate.decontaminate import Method
from distill.recipe import StageConfig
from distill.selection import Instruction


class CurateConfig(StageConfig):
    """Which traces become examples, and in what order."""

    inputs: ClassVar[tuple[str, ...]] = ("traces", "problems", "against", "tokenizer")
    traces: str | tuple[str, ...]
    """Harvest steps."""
    problems: str
    """Step or file with the problems the traces answer."""
    against: str | tuple[str, ...]
    """Steps or files whose test-split problems the examples must not touch."""
    tokenizer: str | None = None
    """Checkpoint whose tokenizer counts `max_tokens`; the student's."""
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
    order: Literal["level", "length", "none"] = "none"
    """level: easy first, shuffled within a level; length: short first; none: as the problems stand."""
    first: tuple[str, ...] = ()
    """Families whose examples come before all others, for a curriculum that begins with them."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "CurateConfig":
        if not self.traces:
            raise ValueError("traces: expected at least one harvest step, got none")
        if not self.against:
            raise ValueError("against: expected at least one step or file of held-out problems, got none")
        if (self.max_tokens is None) != (self.tokenizer is None):
            raise ValueError("max_tokens and tokenizer: either both or neither")
        return self
