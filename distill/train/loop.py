"""Loop: our own optimizer steps, for what no trainer has a hook for. States survive a kill like a trainer's.

A step is a function of weights, optimizer and number: whatever is drawn in it is seeded from run seed and
step, so that nothing hidden has to be stored, and a resumed run ends like an uninterrupted one, bit for bit
on a CPU. One process.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from distill.sampling.protocols import LoadedModel
from distill.train.auxiliary import Extras
from distill.train.divergences import Sums
from distill.train.lean import OPTIMIZER, SCHEDULER, WEIGHTS, check_finite, optimizers, take_best
from distill.train.objective import Objective
from distill.train.outcome import Kept
from distill.train.positions import Tally, losses_of
from distill.train.resume import States
from distill.train.schedule import TrainConfig
from distill.train.turns import Turn, batch, passes

STRIDE = 1_000_003
"""Parts the seeds of runs: more steps than a run has."""


class Loop:
    """Trains one model on turns."""

    def __init__(
        self,
        loaded: LoadedModel,
        config: TrainConfig,
        objective: Objective,
        *,
        steps: int,
        pass_tokens: int,
        states: States,
        extras: Extras,
        seed: int,
    ) -> None:
        """`pass_tokens`: padded tokens of one forward and backward pass."""
        self.model, self.config, self.objective, self.extras = loaded.model, config, objective, extras
        self.pad_id = int(loaded.tokenizer.pad_token_id or 0)
        self.pass_tokens, self.states, self.seed = pass_tokens, states, seed
        self.optimizer, self.schedule = optimizers(loaded.model, config, steps)
        self.tally = Tally()
        if config.gradient_checkpointing:
            self.model.activation_checkpointing_enable()

    def resume(self) -> int:
        """Continue from the newest state; the steps it has behind it."""
        newest = self.states.newest()
        if newest is None:
            return 0
        step, folder = newest
        device = self.model.device
        self.model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True, map_location=device))
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True, map_location=device))
        self.schedule.load_state_dict(torch.load(folder / SCHEDULER, weights_only=True))
        return step

    def save(self, step: int, metric: float | None) -> None:
        """Keep a state to resume from; `metric` is what the best is found by."""
        with self.states.write(step, metric) as folder:
            torch.save(self.model.state_dict(), folder / WEIGHTS)
            torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)
            torch.save(self.schedule.state_dict(), folder / SCHEDULER)

    def take_best(self) -> Kept:
        """Give the model the weights of the best state. Raises UserError when none is sound."""
        return take_best(self.model, self.states)

    def step(self, turns: Sequence[Turn], number: int) -> float:
        """One optimizer step on these turns, the mean over all their loss tokens; its loss."""
        torch.manual_seed((self.seed * STRIDE + number) % 2**63)
        self.model.train()
        positions = sum(turn.positions for turn in turns)
        total = torch.zeros((), device=self.model.device)
        for part in passes(turns, self.pass_tokens):
            with self._autocast():
                sums = self._sums(part)
                loss = sums.divergence / positions + self.extras.loss(len(turns))
            loss.backward()
            self.tally.add(sums)
            total += sums.divergence.detach() / positions
        check_finite(float(total), "loss", number)
        if self.config.clip_norm:
            clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.extras.end_step()
        return float(total)

    @torch.no_grad()
    def look(self, turns: Sequence[Turn]) -> None:
        """Count the agreement on these turns, and learn nothing."""
        self.model.eval()
        for part in passes(turns, self.pass_tokens):
            with self._autocast():
                self.tally.add(self._sums(part))

    def _sums(self, part: Sequence[Turn]) -> Sums:
        ids_BT, mask_BT, labels_BT, told, said_N = batch(part, self.pad_id)
        device = self.model.device
        inputs = {"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device), "use_cache": False}
        hidden_BTD = self.model.get_decoder()(**inputs).last_hidden_state
        return losses_of(
            self.model, hidden_BTD, labels_BT.to(device), told.to(device), self.objective, said_N.to(device)
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.config.bf16)
