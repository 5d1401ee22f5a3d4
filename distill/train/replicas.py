"""Data parallel training: every process has the whole model, or DeepSpeed's share of it, and its own rows of a batch.

Transformers' Trainer wraps the model, in DistributedDataParallel or in DeepSpeed's engine, and both average
gradients over the processes, hiding messages behind the backward pass. Here is what the stage needs besides: the
step of one process. Losses are divided by the loss tokens of all processes and multiplied by their number, so that the
averages are sums.

A wrapper that is not the one asked for trains something else and says nothing: accelerate configurations
and environment variables choose wrappers too, and FSDP asked for on a CPU became DistributedDataParallel without a
word (accelerate 1.15). So the wrapper is looked at before the first step. FSDP itself is not offered: ZeRO-3 shards
the same.
"""

import os
from typing import TYPE_CHECKING, Any

from distill.errors import UserError
from distill.train.zero import stage_of

if TYPE_CHECKING:
    from torch import Tensor

FOREIGN = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
"""Set by `accelerate launch`; each has a wrapper chosen behind the recipe's back."""


class Replicas:
    """The `Ranks` of a model that Trainer wraps."""

    in_parts = False
    wrapped = True

    def __init__(self, zero: dict[str, Any] | None) -> None:
        """`zero`: DeepSpeed's configuration, None for DistributedDataParallel. Raises UserError for a foreign one."""
        import torch.distributed as dist

        for name in FOREIGN:
            if os.environ.get(name, "").lower() in ("1", "true"):
                raise UserError(
                    f"{name}={os.environ[name]}: accelerate would wrap the model itself, and what it wraps it in is "
                    "not always what was asked for; start with --nproc, and choose with --deepspeed"
                )
        self.zero, self.rank, self.world = zero, dist.get_rank(), dist.get_world_size()

    def sum(self, tensor: "Tensor") -> "Tensor":
        """Add up over processes, in place."""
        import torch.distributed as dist

        dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self) -> None:
        """Nothing: the wrapper did."""

    def gradient_norm(self) -> "Tensor":
        """Not asked for: the wrapper clips."""
        raise AssertionError("the wrapper clips")

    def whole_state(self, wrapped: Any) -> "dict[str, Tensor] | None":
        """Process 0 gathers what ZeRO-3 spread."""
        if self.zero is None or stage_of(self.zero) < 3:
            return None
        state: dict[str, Tensor] = wrapped._zero3_consolidated_16bit_state_dict()  # of the weights' own type
        return state

    def wait(self) -> None:
        """Go on when all are here."""
        import torch.distributed as dist

        dist.barrier()

    def check_wrapper(self, wrapped: Any) -> None:
        """UserError unless Trainer wrapped the model in what was asked for."""
        wanted = "DeepSpeedEngine" if self.zero else "DistributedDataParallel"
        found = type(wrapped).__name__
        if found != wanted:
            raise UserError(
                f"{self.world} processes: the model was to be wrapped in {wanted} and is in {found}; this would train "
                "something else without a word"
            )
