"""The table `[STEP.guard]`: plain numbers and names, so that a recipe is read without torch."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distill.records import Params
from distill.sampling.protocols import CACHE_GB
from distill.selection import HeldOut, Instruction


class StudentGuard(BaseModel):
    """Problems a student sits before, during and after training, and when its traces count as beyond it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    problems: str
    """Step or path of the problems it is trained for. None of them may be among the examples."""
    off_target: str | None = None
    """Step or path of other problems, where it should not become worse; None looks nowhere else."""
    select: HeldOut = HeldOut()
    """Which of `problems` may be asked."""
    off_select: HeldOut = HeldOut()
    """Which of `off_target` may be asked."""
    n: int = Field(default=64, gt=0)
    """Problems asked of each, evenly over families and levels; the same every time."""
    samples: int = Field(default=1, gt=0)
    """Completions a problem."""
    max_tokens: int = Field(gt=0)
    """Longest completion; a longer one is cut."""
    temperature: float = Field(default=0.6, ge=0)
    """0 is greedy, which small reasoning models answer with endless repetition (DeepSeek-R1 README, usage)."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Sample from the likeliest tokens that hold this share of the probability."""
    instruction: Instruction = "none"
    """What the user turn says after the problem; as the student was taught."""
    every: int = Field(default=0, ge=0)
    """Steps between held-out accuracies in the curve; 0 measures before and after alone."""
    rows: int = Field(default=64, gt=0)
    """Rows of the training data whose perplexity is taken before the first step."""
    least_pass_rate: float = Field(default=0.02, ge=0, le=1)
    """Warn when fewer problems are right before training. The number is ours (docs/guard.md)."""
    most_perplexity: float = Field(default=8.0, gt=1)
    """Warn when the traces are less likely to the student. The number is ours (docs/guard.md)."""
    most_length: float = Field(default=4.0, gt=0)
    """Warn when traces are on average so many times as long as the student's own completions. Ours too; that long
    traces hurt small students is arXiv 2502.12143."""
    slots: int = Field(default=64, gt=0)
    """Completions sampled at a time."""
    cache_gb: float = Field(default=CACHE_GB, gt=0)
    """Memory for the engine's cache, in 10^9 bytes, while it samples."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples: more than one needs a temperature above 0, greedy samples are all the same")
        if self.off_target is None and "off_select" in self.model_fields_set:
            raise ValueError("off_select: chooses among off_target, which is not given")
        return self

    @property
    def params(self) -> Params:
        """How the student is sampled."""
        return Params(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p)
