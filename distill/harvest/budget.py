"""Budget: what a harvest may cost, and what happens when that is spent.

Says when to stop, never what is sampled: no part of it goes into a trace's id, a round's
decisions or the step's fingerprint. So a raised budget goes on where a spent one stopped.
"""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from distill.harvest.prices import OwnPrice
from distill.records import Record

LIMITS = ("tokens", "cost", "gpu_hours")


class BudgetConfig(Record):
    """What a harvest may cost, all its attempts together."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    tokens: int | None = Field(default=None, gt=0)
    """Completion tokens; never exceeded."""
    cost: float | None = Field(default=None, gt=0.0)
    """In the currency of the price; never exceeded where tokens are priced."""
    gpu_hours: float | None = Field(default=None, gt=0.0)
    """Hours times `gpus`; what is in flight when they are over is finished."""
    gpus: int | None = Field(default=None, gt=0)
    """GPUs the sampler takes, here or behind an endpoint."""
    prices: str | None = None
    """Price table: a .toml file, or one that is shipped (`published`)."""
    price: OwnPrice | None = None
    """Instead of a table: the price itself."""
    on_spent: Literal["stop", "finish"] = "stop"
    """stop: the step stays unfinished and no later step runs; finish: it ends with what is there, and says so."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "BudgetConfig":
        if self.price is not None and self.prices is not None:
            raise ValueError("prices and price: give at most one of them")
        if self.cost is not None and not self.priced:
            raise ValueError("cost: needs prices, a table, or price")
        if self.gpu_hours is not None and self.gpus is None:
            raise ValueError("gpu_hours: needs gpus, how many the sampler takes")
        if not self.limited and self.on_spent == "finish":
            raise ValueError(f"on_spent: nothing can be spent; give {', '.join(LIMITS[:-1])} or {LIMITS[-1]}")
        if not self.limited and not self.priced and self.gpus is None:
            raise ValueError(f"says nothing; give {', '.join(LIMITS)}, or prices or gpus to have them counted")
        return self

    @property
    def priced(self) -> bool:
        """Whether it is known what anything costs."""
        return self.prices is not None or self.price is not None

    @property
    def limited(self) -> bool:
        """Whether there is anything that can be spent."""
        return any(getattr(self, limit) is not None for limit in LIMITS)
