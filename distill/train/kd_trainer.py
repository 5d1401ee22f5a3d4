"""The trainer of `kd`: sft's, with a loss from hidden states and what a teacher told of the same positions."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill.train.divergences import Told
from distill.train.lean import CALL
from distill.train.positions import Tally, losses_of
from distill.train.sft_trainer import LeanSft

if TYPE_CHECKING:
    from distill.train.kd import KdConfig

# B rows, T padded width, D model width


class LeanKd(LeanSft):
    """Takes `told_*` from its batches, in the order of the loss positions."""

    def __init__(self, *, config: "KdConfig", **kwargs: Any) -> None:
        self.config = config
        self.tally = Tally()
        super().__init__(**kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        assert not return_outputs, "no evaluation loop runs here"
        labels_BT = inputs.pop("labels")
        told = Told(inputs.pop("told_ids"), inputs.pop("told_logprobs"), inputs.pop("told_tail"))
        hidden_BTD = model.get_decoder()(**inputs, **CALL).last_hidden_state
        sums = losses_of(model, hidden_BTD, labels_BT, told, self.config.objective)
        self.tally.add(sums)
        apart = self.config.kd_weight * sums.divergence + self.config.ce_weight * sums.cross_entropy
        extra = self.extras.loss(self._sequences(), labels_BT, num_items_in_batch)
        return torch.as_tensor(apart / num_items_in_batch + extra)

    def told(self) -> dict[str, Any]:
        return {"agreement": self.tally.take()}
