"""Positions: losses where a batch carries loss, and their means over passes and steps."""

from typing import Any

import torch
from torch import Tensor

from distill.train.curve import Agreement
from distill.train.divergences import Sums, Told, taught
from distill.train.objective import Objective
from distill.train.rows import IGNORED
from distill.train.schedule import WHOLE_LOGITS

# B rows, T padded width, N loss positions, D model width


def losses_of(
    model: Any, hidden_BTD: Tensor, labels_BT: Tensor, told: Told, objective: Objective, said_N: Tensor | None = None
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
