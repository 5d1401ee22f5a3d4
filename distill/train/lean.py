"""What our SFT and GRPO trainers change in transformers' Trainer: less bookkeeping, states that survive a kill.

Left out: telemetry, model cards, FLOP counts, gradient norms nobody asked for, log history,
Trainer's own dataloader and checkpoint folders. Where processes share a model (`distill.train.ranks`)
Trainer is kept from wrapping it in DistributedDataParallel: gradients are summed and clipped here.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.utils import clip_grads_with_norm_
from transformers import TrainerCallback

from distill.errors import UserError
from distill.train.adapters import Adapters
from distill.train.auxiliary import Extras
from distill.train.optimizers import make_optimizer, make_schedule
from distill.train.outcome import Kept
from distill.train.ranks import Ranks
from distill.train.resume import States
from distill.train.schedule import WHOLE_LOGITS, TrainConfig

WEIGHTS = "weights.pt"
STATE = "trainer_state.json"
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
"""Where Trainer looks for them."""
CALL = {"use_cache": False}
"""Keywords of every training pass. A cache would let packed rows see each other (`distill.train.preflight.packing`)."""


class Feed:
    """A run's batches as a dataloader, from a given one on; `make` turns a batch's rows into tensors."""

    def __init__(self, batches: Sequence[Any], first: int, make: Any) -> None:
        self.batches, self.first, self.make = batches, first, make

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches[self.first :]:
            yield self.make(batch)


class Lean:
    """Mixed in before a TRL trainer. `states`, `feed` and `curve` are set before `train`."""

    states: States
    feed: Feed
    curve: Any
    """None on processes that write none."""
    ranks: Ranks | None = None
    adapters: Adapters | None = None
    """Where they alone are trained."""

    def __init__(self, *, optimizers: tuple[Any, Any], **kwargs: Any) -> None:
        self.made = optimizers
        """Optimizer and schedule."""
        cast(Any, super()).__init__(optimizers=optimizers, **kwargs)

    def get_train_dataloader(self) -> Feed:
        return self.feed

    def create_optimizer(self, model: Any = None) -> Any:
        """Ours, again: Trainer drops it when it begins with DeepSpeed."""
        trainer: Any = self
        trainer.optimizer = self.made[0]
        return trainer.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Ours, over the groups of the optimizer, which every wrapper keeps."""
        trainer: Any = self
        trainer.lr_scheduler = self.made[1]
        return trainer.lr_scheduler

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        trainer, parent = cast(Any, self), cast(Any, super())
        prepared = parent._prepare_for_training(*args, **kwargs)
        if self.ranks is not None:
            self.ranks.check_wrapper(trainer.model_wrapped)
        return prepared

    def whole_state(self) -> dict[str, torch.Tensor] | None:
        """The trained model's tensors, where this process's model has not all of them. All processes call this."""
        trainer: Any = self
        return None if self.ranks is None else self.ranks.whole_state(trainer.model_wrapped)

    def take_best(self) -> Kept:
        """Put the weights of the best state into the model. All processes call this. Raises UserError."""
        return take_best(cast(Any, self).model, self.states, self.adapters)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        return None

    def _send_telemetry(self) -> None:
        return None

    def _wrap_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        trainer, parent = cast(Any, self), cast(Any, super())
        if self.ranks is None or self.ranks.wrapped:
            return parent._wrap_model(model, *args, **kwargs)
        # Placed and autocast, as Trainer does it for models that already own their gradients' sums; not wrapped.
        return trainer.accelerator.prepare_model(model, evaluation_mode=True)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        trainer, parent = cast(Any, self), cast(Any, super())
        loss: torch.Tensor = parent.training_step(*args, **kwargs)
        if self.ranks is not None and trainer.accelerator.sync_gradients:
            self.ranks.sum_gradients()
        if self.adapters is not None:
            self.adapters.check_gradients(trainer.model)
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        trainer, parent = cast(Any, self), cast(Any, super())
        if self.ranks is None or self.ranks.wrapped:
            return parent._clip_grad_norm(model)
        norm = self.ranks.gradient_norm()
        clip_grads_with_norm_(model.parameters(), trainer.args.max_grad_norm, norm)
        return norm

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        return grad_norm

    def logits_are_few(self, input_ids: torch.Tensor) -> bool:
        """Whether a batch's logits may be held at once."""
        trainer: Any = self
        vocab_size: int = trainer.model.get_output_embeddings().weight.shape[0]
        return input_ids.numel() * vocab_size <= WHOLE_LOGITS

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = self
        if self.curve is not None:
            self.curve.sync()
        with self.states.write(trainer.state.global_step, self._metric()) as folder:
            trainer._save_rng_state(str(folder))
            if trainer.is_deepspeed_enabled:
                trainer.model_wrapped.save_checkpoint(str(folder))  # each process its part
            if self.ranks is None or self.ranks.in_parts or self.ranks.rank == 0:
                if not trainer.is_deepspeed_enabled:
                    torch.save(self._weights(), folder / WEIGHTS)
                    torch.save(trainer.optimizer.state_dict(), folder / OPTIMIZER)
                torch.save(trainer.lr_scheduler.state_dict(), folder / SCHEDULER)
                trainer.state.save_to_json(str(folder / STATE))

    def _metric(self) -> float | None:
        """What the best state is found by: a field of the row just written."""
        name = self.states.keep.metric
        return None if name is None or self.curve is None else float(getattr(self.curve.last, name))

    def _weights(self) -> dict[str, torch.Tensor]:
        """What a state holds of the model: all of it, or the adapters alone."""
        trainer: Any = self
        if self.adapters is not None:
            return self.adapters.state(trainer.model)
        whole: dict[str, torch.Tensor] = trainer.model.state_dict()
        return whole

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(cast(Any, self).model, Path(resume_from_checkpoint), self.adapters)


class AfterStep(TrainerCallback):
    """Tells `extras` of every optimizer step, before its state is saved; a state and a row of the curve go together.

    A resumed run begins with a state, and between two rows losses are summed up that no state holds.
    """

    def __init__(self, extras: Extras) -> None:
        self.extras = extras

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.extras.end_step()
        control.should_log |= control.should_save


def arguments(
    out: Path, config: TrainConfig, steps: int, log_every: int, seed: int, ranks: Ranks | None = None
) -> dict[str, Any]:
    """Keywords of TRL's config classes that `sft` and `rl` share."""
    if ranks is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("WORLD_SIZE: this step trains in one process; start it without torchrun")
    return {
        "output_dir": str(out),
        "max_steps": steps,
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": config.bf16,
        "activation_checkpointing": config.gradient_checkpointing,
        "max_grad_norm": config.clip_norm,
        "logging_strategy": "steps",
        "logging_steps": log_every,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if config.save_every else "no",
        "save_steps": config.save_every or 1,
        "ignore_data_skip": True,
        "report_to": "none",
        "disable_tqdm": True,
    }


def take_best(model: Any, states: States, adapters: Adapters | None = None) -> Kept:
    """Put the weights of the best state into a model. Raises UserError where none is sound."""
    found, name = states.best(), states.keep.metric
    if found is None or name is None:
        raise UserError(f"{states.folder}: final = 'best': no sound state is left to choose; train again")
    step, folder = found
    if (folder / WEIGHTS).is_file():  # else process 0 has them
        load_weights(model, folder, adapters)
    value = states.metric(step)
    assert value is not None, "it was chosen by it"
    return Kept(step=step, metric=name, value=value)


def load_weights(model: Any, folder: Path, adapters: Adapters | None) -> None:
    """Put what a state holds of a model back into it."""
    weights = torch.load(folder / WEIGHTS, weights_only=True, map_location="cpu")
    if adapters is None:
        model.load_state_dict(weights)
    else:
        adapters.load(model, weights)


def optimizers(model: torch.nn.Module, config: TrainConfig, steps: int) -> tuple[Any, Any]:
    """Optimizer and schedule as Trainer takes them."""
    optimizer = make_optimizer(model, config)
    return optimizer, make_schedule(optimizer, config, steps)


def check_finite(value: float, name: str, step: int) -> None:
    """Stop a run that has blown up, while its last state is still sound."""
    if not torch.isfinite(torch.tensor(value)):
        raise UserError(f"step {step}: {name} is {value}; lower learning_rate or clip_norm")
