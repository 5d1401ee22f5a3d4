"""What an `sft` step's table holds: plain numbers and names, so that a recipe is read without torch."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from distill.train.batches import Curriculum
from distill.train.guard.table import StudentGuard
from distill.train.lora import LoraConfig
from distill.train.rope import RopeConfig
from distill.train.schedule import TrainConfig


class SftConfig(TrainConfig):
    """Table of an `sft` step."""

    inputs: ClassVar[tuple[str, ...]] = ("data", "model", "guard.problems", "guard.off_target")
    data: str
    """Step or path of the examples (a curate run folder, or an examples.jsonl)."""
    model: str
    """Step or path of the checkpoint to start from."""
    steps: int | None = Field(default=None, gt=0)
    """Optimizer steps; give this or `tokens`."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens to train on, padding not counted; give this or `steps`."""
    tokens_per_batch: int = Field(default=2048, gt=0)
    """Most tokens of one optimizer step, padding not counted."""
    accumulation: int = Field(default=1, gt=0)
    """Parts a step is computed in, short rows first: less memory and less padding, the same step."""
    order: str | None = None
    """Which of the orders written beside the examples (`orders` of curate); None takes the one they stand in."""
    curriculum: Curriculum = Curriculum()
    """Share of the rows (easiest first) to start from, and the progress at which all take part."""
    max_length: int = Field(default=2048, gt=0)
    """Longest row, in tokens. Rows are never cut."""
    on_long: Literal["refuse", "drop"] = "refuse"
    """What to do with longer rows: stop before training, or leave them out and count them."""
    mtp_loss: float = Field(default=0.0, ge=0)
    """Weight of the loss of further tokens, for a model with modules for them; DeepSeek-V3 used 0.3, then 0.1."""
    packing: bool = False
    """Put rows of a batch end to end instead of padding them; they do not see each other."""
    log_every: int = Field(default=10, gt=0)
    """Steps between rows of curve.jsonl; a row is also written with every state saved, and at the end."""
    held_out: int = Field(default=0, ge=0)
    """Rows, at least, kept out of training with all others of their prompts; their loss is measured with every state
    saved, and at the end."""
    keep_best: Literal["loss", "held_out_loss"] | None = None
    """Of the states saved the one with the lowest is kept too."""
    lora: LoraConfig | None = None
    """Train adapters instead of the weights; the checkpoint gets them merged."""
    rope: RopeConfig | None = None
    """Change the rotary positions before training, to read further."""
    guard: StudentGuard | None = None
    """Ask the student problems before, during and after training, and compare it with what it was."""
    allow_contaminated: bool = False
    """Train on data that was never compared with the benchmarks."""
    expert_parallel: int = Field(default=1, gt=0)
    """Processes that share a teacher's experts and deal out each batch's rows; start as many with --nproc."""
    data_parallel: int = Field(default=1, gt=0)
    """Processes with the whole model each that deal out each batch's rows; start as many with --nproc."""
    deepspeed: str | None = None
    """DeepSpeed's ZeRO over those processes: zero1, zero2, zero3, zero2-offload, zero3-offload, or a .json file."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give exactly one of steps and tokens")
        if self.tokens_per_batch < self.parts:
            raise ValueError("accumulation times the number of processes is larger than tokens_per_batch")
        if self.expert_parallel > 1 and (self.data_parallel > 1 or self.deepspeed):
            raise ValueError("expert_parallel goes with neither data_parallel nor deepspeed")
        if self.deepspeed and self.optimizer == "muon":
            raise ValueError("deepspeed cuts matrices into pieces, and muon needs them whole: set optimizer = 'adamw'")
        if self.keep_best == "held_out_loss" and not self.held_out:
            raise ValueError("keep_best = 'held_out_loss' needs rows to measure it on: set held_out")
        if self.final == "best" and self.deepspeed:
            raise ValueError("final = 'best' does not go with deepspeed, whose states hold no whole weights")
        if self.guard is not None and (self.parts != self.accumulation or self.deepspeed):
            raise ValueError(
                "guard samples in the one process that trains: with expert_parallel, data_parallel or deepspeed leave "
                "it out, and bench both checkpoints"
            )
        return self

    @model_validator(mode="after")
    def _adapters_alone(self) -> Self:
        if self.lora is None:
            return self
        if self.expert_parallel > 1 or self.deepspeed:
            raise ValueError("lora goes with neither expert_parallel nor deepspeed; data_parallel is possible")
        if self.mtp_loss or self.bias_update:
            raise ValueError("lora trains adapters alone: mtp_loss and bias_update have nothing to move; set them to 0")
        if self.optimizer == "muon" and "learning_rate" in self.model_fields_set:
            raise ValueError(
                "lora: adapters are matrices, so with optimizer = 'muon' learning_rate trains nothing; set "
                "muon_learning_rate, or optimizer = 'adamw'"
            )
        return self

    @property
    def parts(self) -> int:
        """Parts of a step, over all processes."""
        return self.accumulation * max(self.expert_parallel, self.data_parallel)
