"""TRL's SFTTrainer on our own batches, without the per-step metrics that nobody reads.

The loss alone is computed here: from whole logits where they are few, else through TRL's
fused head, which never holds all logits at once. Both are tested against each other.
"""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from distill.progress import Task
from distill.train.adapters import Adapters
from distill.train.auxiliary import Extras
from distill.train.batches import Plan
from distill.train.classes import LossByClass
from distill.train.curve import Curve, SftPoint
from distill.train.guard.watch import Watch
from distill.train.held_out import held_out_loss
from distill.train.lean import CALL, AfterStep, Feed, Lean, check_finite
from distill.train.ranks import ranks_of
from distill.train.resume import States
from distill.train.rows import IGNORED, Rows


class LeanSft(Lean, SFTTrainer):
    """Trains on `feed`, writes `curve`, reports to `task`."""

    def __init__(
        self,
        *,
        states: States,
        feed: Feed,
        curve: Curve[SftPoint] | None,
        plan: Plan,
        extras: Extras,
        task: Task,
        adapters: Adapters | None = None,
        held_out: Rows | None = None,
        guard: Watch | None = None,
        **kwargs: Any,
    ) -> None:
        self.states, self.feed, self.curve, self.plan, self.task = states, feed, curve, plan, task
        self.extras, self.ranks = extras, ranks_of(kwargs["model"])
        self.adapters, self.held_out, self.guard, self.by_class = adapters, held_out, guard, LossByClass()
        super().__init__(callbacks=[AfterStep(extras), _Count(task, plan.tokens, guard)], **kwargs)
        self.remove_callback(PrinterCallback)
        del self.model.forward  # the head TRL just patched in, which computes its metrics too
        add_fused_lm_head(self.model, outputs=("log_probs",))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        assert not return_outputs, "no evaluation loop runs here"
        labels, thoughts = inputs.pop("labels"), inputs.pop("thoughts")
        if self.logits_are_few(labels):
            logits = model(**inputs, **CALL).logits[:, :-1].float()
            targets = labels[:, 1:].flatten()
            losses = F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction="none")
            loss = losses.sum() / num_items_in_batch
        else:
            found = model(**inputs, **CALL, labels=labels, fused_lm_head=True, num_items_in_batch=num_items_in_batch)
            loss, losses = found.loss, -found.log_probs
        losses = losses.view(len(labels), -1)
        self.by_class.add(losses, labels, thoughts, inputs.get("position_ids"))
        whole = torch.as_tensor(loss + self.extras.loss(self._sequences(), labels, num_items_in_batch))
        return whole * self.averaged_over

    @property
    def averaged_over(self) -> int:
        """Processes over which a wrapper will average gradients that are to be summed."""
        return self.ranks.world if self.ranks is not None and self.ranks.wrapped else 1

    def _sequences(self) -> int:
        """Rows of the step that is being computed, on all processes."""
        return sum(map(len, self.plan.steps[self.state.global_step]))

    def told(self) -> dict[str, Any]:
        """Further fields of the curve's next row, over the steps since the last one."""
        return self.by_class.take(self.ranks.sum if self.ranks is not None else None)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" not in logs:
            return
        step = self.state.global_step
        # Trainer takes the mean over processes; each of them has its share of a sum.
        loss = logs["loss"] * (self.ranks.world if self.ranks is not None else 1) / self.averaged_over
        check_finite(loss, "loss", step)
        beside = self.extras.take()
        told = self.told()
        asked = self.guard is not None and self.guard.due(step)
        measured = asked or self.control.should_save or step == self.state.max_steps
        held_out = self._held_out_loss() if measured else None
        if self.curve is None:
            return
        accuracy = self._held_out_accuracy(self.guard, self.curve) if self.guard is not None and asked else None
        row = SftPoint(
            step=step,
            tokens=self.plan.tokens[step - 1],
            loss=loss - self.extras.weighted(beside),
            lr=logs["learning_rate"],
            seconds=self.curve.seconds(),
            held_out_loss=held_out,
            held_out_accuracy=accuracy,
            **beside,
            **told,
        )
        self.curve.add(row)
        self.task.facts = f"loss {row.loss:.3f}"

    def _held_out_loss(self) -> float | None:
        """Of the weights as they are; processes that share the model measure it together, each on all rows."""
        if self.held_out is None:
            return None
        with nullcontext() if self.curve is None else self.curve.stopped():
            return held_out_loss(self.model, self.held_out, bf16=self.args.bf16)

    def _held_out_accuracy(self, guard: Watch, curve: Curve[SftPoint]) -> float:
        with curve.stopped():
            return guard.accuracy(self.model, self.processing_class)


class _Count(TrainerCallback):
    """Tells the progress task of every step, and has the last one logged, and those the guard asks at."""

    def __init__(self, task: Task, tokens: list[int], guard: Watch | None) -> None:
        self.task, self.tokens, self.guard = task, tokens, guard

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        self.task.advance(tokens=self.tokens[step - 1] - (self.tokens[step - 2] if step > 1 else 0))
        control.should_log |= step == state.max_steps or (self.guard is not None and self.guard.due(step))
