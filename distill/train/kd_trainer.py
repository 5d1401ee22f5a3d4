"""The trainer of `kd`: sft's, with a loss from hidden states and what a teacher told of the same positions."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill.train.curve import Agreement
from distill.train.divergences import Sums, Told, taught
from distill.train.rows import IGNORED
from distill.train.schedule import WHOLE_LOGITS
from distill.train.sft_trainer import LeanSft

if TYPE_CHECKING:
    from distill.train.kd import KdConfig

# B rows, T padded width, N loss positions, K tokens kept of the teacher, D model width


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
        hidden_BTD = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
        sums = losses_of(model, hidden_BTD, labels_BT, told, self.config.objective)
        self.tally.add(sums)
        apart = self.config.kd_weight * sums.divergence + self.config.ce_weight * sums.cross_entropy
        extra = self.extras.loss(self._sequences(), labels_BT, num_items_in_batch)
        return torch.as_tensor(apart / num_items_in_batch + extra)

    def told(self) -> dict[str, Any]:
        return {"agreement": self.tally.take()}


def losses_of(
    model: Any, hidden_BTD: Tensor, labels_BT: Tensor, told: Told, objective: Any, said_N: Tensor | None = None
) -> Sums:
    """Losses at the positions before tokens with a label; `told` is about these, rows one after another."""
    next_BT = labels_BT[:, 1:]
    carries_BT = next_BT != IGNORED
    assert int(carries_BT.sum()) == len(told.tail_N), "the teacher was asked about the same positions"
    head = model.get_output_embeddings()
    return taught(
        hidden_BTD[:, :-1][carries_BT],
        head,
        next_BT[carries_BT],
        told,
        objective,
        said_N=said_N,
        at_once=max(1, WHOLE_LOGITS // head.weight.shape[0]),
    )


class Tally:
    """Sums of several passes, and their means."""

    def __init__(self) -> None:
        self.sums: list[Sums] = []

    def add(self, sums: Sums) -> None:
        """Take the sums of a pass; gradients are let go of."""
        self.sums.append(sums.detached())

    def take(self) -> Agreement:
        """Means over the positions since the last time."""
        positions = sum(one.positions for one in self.sums)
        columns = zip(*(one.tensors for one in self.sums), strict=True)
        cross_entropy, divergence, shared, teacher, student, gap = (
            float(torch.stack(column).double().sum()) / positions for column in columns
        )
        self.sums = []
        return Agreement(
            cross_entropy=cross_entropy,
            divergence=divergence,
            overlap=min(1.0, shared),
            teacher_mass=teacher,
            student_mass=student,
            entropy_gap=gap,
        )
