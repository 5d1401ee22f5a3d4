"""Which rows are trained on together, and when: curriculum, token budget, grouping by length.

The whole plan is drawn before training from lengths, config and seed, so a resumed run
continues it exactly. The curriculum is the growing pool of Bengio et al. 2009: at progress p
rows come from the easiest share q(p) of the data. One process only: no sharding over ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

GROUP = 4
"""Batches whose rows are sorted by length together: enough to save most padding, few enough to keep
short (easy) and long (hard) rows in neighboring steps."""


class Curriculum(BaseModel):
    """How the pool of rows grows, easiest first."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    start: float = Field(default=1.0, gt=0, le=1)
    """Share of the rows in the pool at the first step; 1 trains on all from the start."""
    full_at: float = Field(default=0.5, gt=0, le=1)
    """Progress (share of the budget) at which the pool holds every row."""

    def share(self, progress: float) -> float:
        """Share of the rows in the pool, linear from `start` to 1."""
        return min(1.0, self.start + (1.0 - self.start) * progress / self.full_at)


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows of every batch of a run, in order."""

    batches: list[list[int]]
    tokens: list[int]
    """Tokens trained on up to and including each batch, padding not counted."""


def plan_batches(
    lengths: Sequence[int],
    curriculum: Curriculum,
    *,
    batch_tokens: int,
    batches: int | None,
    tokens: int | None,
    padded: bool,
    seed: int,
    multiple: int = 1,
) -> Plan:
    """Draw a run of `batches` batches, or of at least `tokens` tokens and a `multiple` of batches.

    A batch holds as many rows as fit into `batch_tokens`, and one at least; `padded` counts
    its padding. `lengths` is in curriculum order.
    """
    assert (batches is None) != (tokens is None), "exactly one budget"
    source = np.random.default_rng(seed)
    plan = Plan([], [])
    spent, pool = 0, 0
    deck: list[int] = []  # rows of the pool still to be dealt, each once before any again
    held: list[int] = []  # rows left over by the last group, too few for a batch of their own
    while True:
        progress = len(plan.batches) / batches if batches is not None else spent / (tokens or 1)
        grown = max(1, round(curriculum.share(progress) * len(lengths)))
        if grown != pool:
            pool, deck = grown, []
        while sum(lengths[row] for row in held) < GROUP * batch_tokens:
            if not deck:
                deck = source.permutation(pool).tolist()
            held.append(deck.pop())
        full, held = _cut(held, lengths, batch_tokens, padded)
        for index in source.permutation(len(full)):
            spent += sum(lengths[row] for row in full[index])
            plan.batches.append(full[index])
            plan.tokens.append(spent)
            enough = tokens is not None and spent >= tokens and len(plan.batches) % multiple == 0
            if enough or len(plan.batches) == batches:
                return plan


def _cut(rows: list[int], lengths: Sequence[int], budget: int, padded: bool) -> tuple[list[list[int]], list[int]]:
    """Full batches of rows alike in length, and the longest rows, which fill no batch yet."""
    full: list[list[int]] = []
    batch: list[int] = []
    held = 0
    for row in sorted(rows, key=lambda row: lengths[row]):
        size = lengths[row] * (len(batch) + 1) if padded else held + lengths[row]
        if batch and size > budget:
            full.append(batch)
            batch, held = [], 0
        batch.append(row)
        held += lengths[row]
    return (full, batch) if full else ([batch], [])
