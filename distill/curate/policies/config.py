"""The tables of selection policies, and which orders of them make sense.

A policy with nothing to set may be written as its name: `policies = ["verified", "shortest"]`.
They act one after another, each on what the ones before it left.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Trait = Literal["level", "subject", "length", "source", "origin"]


class PolicyTable(BaseModel):
    """One policy: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class CorrectOnly(PolicyTable):
    """A policy that takes correct traces only."""

    open: Literal["keep", "drop"] = "drop"
    """Traces of open problems, which no judge decides: keep lets them by untouched."""


class All(PolicyTable):
    """Takes everything, right or wrong."""

    policy: Literal["all"]


class Verified(CorrectOnly):
    """Takes what was judged correct, or agrees with a majority label."""

    policy: Literal["verified"]


class Shortest(CorrectOnly):
    """Takes the shortest correct traces of each problem."""

    policy: Literal["shortest"]
    k: int = Field(default=1, gt=0)
    """Traces a problem."""


class Diverse(CorrectOnly):
    """Takes the correct traces of each problem that differ most from one another."""

    policy: Literal["diverse"]
    k: int = Field(default=2, gt=0)
    """Traces a problem."""
    min_distance: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least distance (share of differing sketch bits, 0 to 1; unrelated texts stand at 0.5) between two taken."""


class Majority(PolicyTable):
    """Makes the teacher's majority answer the label where no sample matches gold, or where there is no gold."""

    policy: Literal["majority"]
    min_votes: int = Field(default=2, gt=0)
    """Fewest samples that must agree."""
    min_share: float = Field(default=0.5, gt=0.0, le=1.0)
    """Least share of the answering samples that must agree."""
    min_margin: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least lead over the runner-up, as a share of the answering samples; a tie never wins."""


class PassRate(PolicyTable):
    """Takes problems of which a certain share of samples is correct, such as neither all nor none."""

    policy: Literal["pass-rate"]
    low: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least share of correct samples, itself included."""
    high: float = Field(default=1.0, ge=0.0, le=1.0)
    """Greatest share of correct samples, itself included."""
    samples: int = Field(gt=0)
    """Judged samples a problem must have for its share to mean anything."""

    @model_validator(mode="after")
    def _is_a_band(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low and high: expected low <= high, got {self.low} and {self.high}")
        return self


class Balanced(PolicyTable):
    """Takes as many traces of every level, subject, length, source or sampler."""

    policy: Literal["balanced"]
    by: tuple[Trait, ...] = Field(min_length=1)
    """What tells the groups apart; lengths are grouped by doubling token counts (16-31, 32-63, ...)."""
    quota: int | None = Field(default=None, gt=0)
    """Most traces a group. Give this or `total`; without either, as many as the smallest group has."""
    total: int | None = Field(default=None, gt=0)
    """Traces in all, spread evenly: what a small group cannot fill, the larger ones do."""

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if self.quota is not None and self.total is not None:
            raise ValueError("quota and total: give at most one of the two")
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by: names a trait twice, got {list(self.by)}")
        return self


class MixLength(PolicyTable):
    """Mixes short and long traces by share, for small students (arXiv 2502.12143)."""

    policy: Literal["mix-length"]
    short_tokens: int = Field(gt=0)
    """Longest trace that is called short, in student tokens (in the sampler's without a tokenizer)."""
    short_share: Share
    """Share of short traces in what is taken."""


class MixGeneral(PolicyTable):
    """Mixes general (open) traces with reasoning by share, as in R1's second fine-tuning (200 k of 800 k)."""

    policy: Literal["mix-general"]
    share: Share = 0.25
    """Share of traces of open problems in what is taken."""
    sources: tuple[str, ...] = ()
    """Families or benchmarks that count as general, instead of open problems."""


class Scored(PolicyTable):
    """Refuses traces that a reward model or an LLM judge scores low; an extra signal, never the only one."""

    policy: Literal["scored"]
    at_least: float
    """Least score taken, in the unit of the scores file; a trace without a score is refused."""


class Divergence(PolicyTable):
    """Takes the traces of each problem the teacher is sure of and the student is not (arXiv 2601.09088)."""

    policy: Literal["divergence"]
    student: str
    """Measure step of the student."""
    teacher: str
    """Measure step of the teacher."""
    k: int = Field(default=1, gt=0)
    """Traces a problem, highest divergence first."""
    at_least: float = Field(default=-1.0, ge=-1.0, le=1.0)
    """Least divergence taken, -1 to 1: the teacher's probability of a step less the student's, mean over tokens."""


class Sample(PolicyTable):
    """Takes a number of traces drawn at random; another size, or another seed, is another draw."""

    policy: Literal["sample"]
    size: int = Field(gt=0)
    """Traces drawn; fewer to draw from is an error."""


AnyPolicy = (
    All
    | Verified
    | Shortest
    | Diverse
    | Majority
    | PassRate
    | Balanced
    | MixLength
    | MixGeneral
    | Scored
    | Divergence
    | Sample
)


def _by_name(said: Any) -> Any:
    return {"policy": said} if isinstance(said, str) else said


def _in_order(policies: Sequence[AnyPolicy]) -> Sequence[AnyPolicy]:
    """Refuse what would do nothing, or would trust a score alone."""
    if not policies:
        raise ValueError("expected at least one policy, got none")
    seen: set[type[PolicyTable]] = set()
    for found in policies:
        if isinstance(found, All) and any(not isinstance(other, All | Sample) for other in policies):
            raise ValueError("'all' takes everything: only 'sample' may stand beside it")
        if isinstance(found, Majority) and any(issubclass(kind, CorrectOnly) for kind in seen):
            raise ValueError("'majority' relabels what would be refused as wrong: put it first")
        if isinstance(found, Scored) and not any(issubclass(kind, CorrectOnly) for kind in seen):
            raise ValueError("'scored' is an extra signal and never the only one: put 'verified' before it")
        if isinstance(found, Sample) and found is not policies[-1]:
            raise ValueError("'sample' states the size of the whole: put it last")
        seen.add(type(found))
    return policies


Policy = Annotated[Annotated[AnyPolicy, Field(discriminator="policy")], BeforeValidator(_by_name)]
Policies = Annotated[tuple[Policy, ...], AfterValidator(_in_order)]
