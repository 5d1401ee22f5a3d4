"""Objective: which divergence pulls a student towards its teacher, as a table of a recipe.

Plain numbers only, so that a recipe is read without torch; `distill.train.divergences` computes it.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Objective(BaseModel):
    """A divergence between the next-token distributions of teacher and student."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    kind: Literal["forward-kl", "reverse-kl", "jsd", "sampled-reverse-kl"] = "forward-kl"
    """`forward-kl` covers what the teacher would say, `reverse-kl` avoids what it would not, `jsd` lies between.
    `sampled-reverse-kl`, of `on-policy` alone, looks at the sampled tokens' log-probabilities and at nothing else."""
    beta: float | None = Field(default=None, gt=0, lt=1)
    """Of `jsd`: the teacher's share of the mixture both are compared with. Near 0 it pulls as `forward-kl` does."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """Both distributions are flattened by it before they are compared, and the loss is multiplied by its square."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        if (self.beta is not None) != (self.kind == "jsd"):
            raise ValueError("beta: needed with kind = 'jsd', and only there")
        if self.kind == "sampled-reverse-kl" and self.temperature != 1.0:
            raise ValueError("temperature: sampled-reverse-kl compares the distributions as they are; leave it out")
        return self
