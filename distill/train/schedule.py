"""What every training stage's table holds, and the learning rate over its steps.

Plain numbers only, so that a recipe is read without torch. Warm-up, plateau, then a linear
decay to zero: the "trapezoid" of Hagele et al. 2024 (arXiv 2405.18392), which lets a run be
cut short anywhere on its plateau.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from distill.backends import BackendsConfig
from distill.train.logs import Log
from distill.train.resume import Keep

WHOLE_LOGITS = 2**24
"""Logits computed in one piece, 64 MiB of them. TRL's fused head, which never holds them all, takes 1.4 times a whole
step of a model of width 64 and 160 tokens of vocabulary (tests/speed/training.py, one CPU thread)."""

ROUTERS = ("gate", "router")
"""Module names of a mixture's router: a matrix by shape, yet each of its rows scores one expert by itself."""


class TrainConfig(BackendsConfig):
    """Fields that `sft` and `rl` share."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """`muon`: Muon for the matrices, AdamW for embeddings, head, router and norms. `adamw`: AdamW for all."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak rate of whatever AdamW trains."""
    muon_learning_rate: float = Field(default=0.02, gt=0)
    """Peak rate of the matrices under `muon`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of the matrices; embeddings, head, router and norms are never decayed."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest gradient norm; 0 leaves gradients as they are."""
    warmup_steps: int = Field(default=30, ge=0)
    """Steps over which the rate rises from zero."""
    decay_share: float = Field(default=0.3, ge=0, le=1)
    """Share of all steps, at the end, over which the rate falls to zero."""
    bf16: bool = False
    """Run matrix products in bfloat16 (autocast); weights and optimizer stay float32."""
    gradient_checkpointing: bool = False
    """Keep no activations inside a layer and compute them again in the backward pass: less memory, more time."""
    balance_loss: float = Field(default=0.0, ge=0)
    """Weight of the loss that keeps the load of experts even within a sequence; DeepSeek-V3 used 1e-4."""
    bias_update: float = Field(default=0.0, ge=0)
    """How far each expert's bias moves against its load after a step; DeepSeek-V3 used 1e-3, and 0 at the end."""
    log: tuple[Log, ...] = ()
    """Where rows of curve.jsonl are repeated, in the run folder: `tensorboard`, `wandb` (offline). Each needs its
    package."""
    save_every: int = Field(default=100, ge=0)
    """Steps between resumable states; 0 keeps none, so that a killed step starts again."""
    keep_last: int = Field(default=2, gt=0)
    """Resumable states kept while training runs, newest first."""
    keep_best: str | None = None
    """Column of the curve; of the states saved the one that is best by it is kept too."""
    final: Literal["last", "best"] = "last"
    """Which weights the checkpoint gets: of the last step, or of the state that `keep_best` kept."""

    @model_validator(mode="after")
    def _no_idle_key(self) -> Self:
        if self.optimizer != "muon" and "muon_learning_rate" in self.model_fields_set:
            raise ValueError("muon_learning_rate is used only with optimizer = 'muon'")
        if self.keep_best is not None and not self.save_every:
            raise ValueError("keep_best chooses among saved states: set save_every above 0")
        if self.final == "best" and self.keep_best is None:
            raise ValueError("final = 'best' needs keep_best, the column of the curve to judge by")
        return self

    @property
    def keep(self) -> Keep:
        """Which states stay."""
        return Keep(self.keep_last, self.keep_best)


def rate_at(step: int, steps: int, warmup_steps: int, decay_share: float) -> float:
    """Share of the peak learning rate at a step counted from 0; never zero, so that every step counts."""
    rise = (step + 1) / (warmup_steps + 1)
    fall = (steps - step) / (decay_share * steps + 1)
    return max(0.0, min(1.0, rise, fall))
