"""Collapse: when a run of `rl` is going wrong, level by level, and should stop.

A policy that loses its entropy stops exploring (DAPO, arXiv 2503.14476, section 3.1, figure 2), one that is never
right, or always takes the same path, learns from noise, and levels that are forgotten do not show in a mean. So the
last steps are compared with the start: the probe and the first step's rollouts, which come before the first update.
What a policy does on a level it has right nine times in ten is no collapse, however short or certain it is. Watches
training only: nothing here is held-out.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from distill.train.curve import RlLevel, RlPoint

EVERY = "all levels"
FINE = 0.9
"""Accuracy from which on a level is well whatever else it does."""
STANDARD_ERRORS = 3.0
"""A drop of accuracy has to be so many standard errors wide beside its limit: 16 levels are looked at every step."""
CALM = 0.1
"""Nats a token up to which a policy is sure of itself, however much surer it was at the start."""
LEAST = 16
"""Completions under which a level's length and entropy say nothing."""


class GuardConfig(BaseModel):
    """When to stop. Limits hold for every level, and for all levels together; 0 switches one off."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    window: int = Field(default=10, gt=0)
    """Steps whose mean is compared with the start."""
    accuracy_drop: float = Field(default=0.25, ge=0, le=1)
    """Largest fall of a level's accuracy, as a difference: 0.25 lets 80% fall to 55%."""
    entropy_least: float = Field(default=0.05, ge=0, lt=1)
    """Smallest entropy a token, as a share of the start's, where accuracy has not risen."""
    entropy_most: float = Field(default=4.0, ge=0)
    """Largest entropy a token, as a multiple of the start's; 0.1 nats are never too much."""
    length_least: float = Field(default=0.33, ge=0, lt=1)
    """Smallest mean length, as a share of the start's, where accuracy has not risen."""
    length_most: float = Field(default=3.0, ge=0)
    """Largest mean length, as a multiple of the start's."""
    stuck: float = Field(default=0.95, ge=0, le=1)
    """Largest share of all prompts whose samples got one and the same reward without being right."""
    kl: float = Field(default=0.3, ge=0)
    """Largest gap between sampler and trainer, in nats a token: beyond it one of the two has other weights."""


@dataclass(frozen=True, slots=True)
class _Pooled:
    """Rows of a level, or of all, as one."""

    completions: int
    prompts: int
    accuracy: float
    length: float
    entropy: float
    stuck: float


class Guard:
    """Compares the last steps with the start."""

    def __init__(self, config: GuardConfig, probe: Mapping[str, RlLevel], rows: Sequence[RlPoint]) -> None:
        """`rows`: the curve so far, where a run continues."""
        self.config, self.probe = config, probe
        self.rows = list(rows)

    def see(self, row: RlPoint) -> str | None:
        """Take one step's rollouts; what has collapsed, or None."""
        self.rows.append(row)
        return self._complaint(1.0) if len(self.rows) > self.config.window else None

    @property
    def well(self) -> bool:
        """Whether everything is within half its limits, so that the weights are worth going back to."""
        return len(self.rows) < 2 or self._complaint(0.5) is None

    def _complaint(self, share: float) -> str | None:
        """The first limit that is crossed when limits are `share` as wide."""
        return next(self._complaints(share), None)

    def _complaints(self, share: float) -> Iterator[str]:
        window = self.rows[1:][-self.config.window :]
        first = self.rows[0]
        over = f"over steps {window[0].step} to {window[-1].step}"
        for level in (*sorted({name for row in window for name in row.by_level}), EVERY):
            start = _pooled(level, [self.probe, first.by_level])
            now = _pooled(level, [row.by_level for row in window])
            if start is not None and now is not None:
                for key, what in self._crossed(start, now, share):
                    yield f"{level}: {what} at the start, {over} (guard.{key} = {getattr(self.config, key):g})"
        every = _pooled(EVERY, [row.by_level for row in window])
        limit = self.config.stuck
        if share == 1.0 and limit and every is not None and every.stuck >= limit:
            told = f"{every.stuck:.0%} of the prompts had samples of one reward that were not all right"
            yield f"{EVERY}: {told}, {over} (guard.stuck = {limit:g})"
        gaps = [row.kl_sampler_trainer for row in window if row.kl_sampler_trainer is not None]
        if self.config.kl and gaps and abs(sum(gaps) / len(gaps)) > self.config.kl * share:
            told = f"sampler and trainer are {sum(gaps) / len(gaps):.2g} nats a token apart"
            yield f"{told} {over} (guard.kl = {self.config.kl:g}): they do not hold the same weights"

    def _crossed(self, start: _Pooled, now: _Pooled, share: float) -> Iterator[tuple[str, str]]:
        """Keys of the limits crossed, with what was measured."""
        config = self.config
        drop = start.accuracy - now.accuracy
        if config.accuracy_drop and drop > share * max(config.accuracy_drop, STANDARD_ERRORS * _error(start, now)):
            yield "accuracy_drop", f"{now.accuracy:.0%} right, {start.accuracy:.0%}"
        if min(start.completions, now.completions) < LEAST or now.accuracy >= FINE:
            return
        better = now.accuracy > start.accuracy
        for key, before, after in (("entropy", start.entropy, now.entropy), ("length", start.length, now.length)):
            unit = "nats a token" if key == "entropy" else "tokens a completion"
            least, most = getattr(config, f"{key}_least"), getattr(config, f"{key}_most")
            if least and not better and after < before * least**share:
                yield f"{key}_least", f"{after:.3g} {unit} and {now.accuracy:.0%} right, {before:.3g}"
            if most and after > max(before * most**share, CALM if key == "entropy" else 0.0):
                yield f"{key}_most", f"{after:.3g} {unit} and {now.accuracy:.0%} right, {before:.3g}"


def _pooled(level: str, rows: Sequence[Mapping[str, RlLevel]]) -> _Pooled | None:
    found = [value for row in rows for name, value in row.items() if level in (EVERY, name)]
    completions = sum(value.completions for value in found)
    if not completions:
        return None
    tokens = sum(value.completions * value.length for value in found)
    return _Pooled(
        completions=completions,
        prompts=sum(value.groups for value in found),
        accuracy=sum(value.completions * value.accuracy for value in found) / completions,
        length=tokens / completions,
        entropy=sum(value.completions * value.length * value.entropy for value in found) / max(1.0, tokens),
        stuck=sum(value.stuck for value in found) / sum(value.groups for value in found),
    )


def _error(start: _Pooled, now: _Pooled) -> float:
    """Standard error of the difference of two shares, each with a right and a wrong one added (Agresti and Caffo).

    Samples of one prompt are right or wrong together, so prompts are what counts, as if each were sampled once.
    """
    total = 0.0
    for side in (start, now):
        share = (side.accuracy * side.prompts + 1) / (side.prompts + 2)
        total += share * (1 - share) / (side.prompts + 2)
    return math.sqrt(total)
