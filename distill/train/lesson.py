"""Lesson: what a stage that trains on examples does with a batch. `sft` imitates; others bring more.

The wall between `sft`, which prepares, plans, trains and resumes, and stages that differ from it
only in their loss.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from distill.sampling.protocols import LoadedModel
from distill.train.rows import Rows

if TYPE_CHECKING:
    from torch import Tensor

    from distill.train.sft_trainer import LeanSft


class Lesson(Protocol):
    """How a model learns from rows."""

    @property
    def stage(self) -> str:
        """The stage it belongs to; goes into the lineage."""

    def prepare(self, rows: Rows, loaded: LoadedModel) -> None:
        """Before the first step. Raises UserError for rows or a model it cannot be held with."""

    def beside(self, batch: Sequence[int]) -> "dict[str, Tensor]":
        """What joins a batch of these rows, by keyword."""

    def trainer(self, **kwargs: Any) -> "LeanSft":
        """Whoever computes the loss."""


class Imitation:
    """Cross-entropy with the examples' own tokens."""

    stage = "sft"

    def __init__(self) -> None:
        self.thoughts: list[tuple[int, int]] = []

    def prepare(self, rows: Rows, loaded: LoadedModel) -> None:
        """Nothing that rows alone would not need."""
        self.thoughts = rows.thoughts

    def beside(self, batch: Sequence[int]) -> "dict[str, Tensor]":
        """Where the thought of each row is."""
        import torch

        return {"thoughts": torch.tensor([self.thoughts[row] for row in batch])}

    def trainer(self, **kwargs: Any) -> "LeanSft":
        from distill.train.sft_trainer import LeanSft

        return LeanSft(**kwargs)
