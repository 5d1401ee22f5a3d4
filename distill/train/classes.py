"""Loss by class of token: reasoning, up to and with `</think>`, and answer, its end-of-turn token included.

Long traces are mostly thought, so one mean says little of whether a student learns to answer. The losses are those the
step computes anyway, token by token; two masked sums a pass are all that is added, no second forward.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from distill.train.rows import IGNORED

# B batch rows (one, holding all, where they are packed), T batch width, R rows


class LossByClass:
    """Sums over the passes since they were last taken."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def add(self, losses_BT: Tensor, labels_BT: Tensor, thoughts_R2: Tensor, positions_BT: Tensor | None) -> None:
        """Take a pass.

        `losses_BT` (B, T-1): of the tokens behind the first, 0 where they have none. `thoughts_R2`: of each row, where
        its thought begins and where its answer does. `positions_BT`: places within rows, given where they are packed.
        """
        losses_BT = losses_BT.detach()
        if positions_BT is None:
            row_BT = torch.arange(len(labels_BT), device=labels_BT.device)[:, None].expand_as(labels_BT)
            positions_BT = torch.arange(labels_BT.shape[1], device=labels_BT.device).expand_as(labels_BT)
        else:
            row_BT = (positions_BT == 0).flatten().cumsum(0).view_as(positions_BT) - 1
        first_BT, past_BT = thoughts_R2[row_BT].unbind(-1)
        thought_BT = ((positions_BT >= first_BT) & (positions_BT < past_BT))[:, 1:]
        counted_BT = labels_BT[:, 1:] != IGNORED
        total, reasoning_BT = losses_BT.sum(), counted_BT & thought_BT
        reasoning = torch.where(reasoning_BT, losses_BT, 0.0).sum()  # not indexed, which a GPU would be waited for
        thoughts, tokens = reasoning_BT.sum(), counted_BT.sum()
        found = torch.stack([reasoning, thoughts, total - reasoning, tokens - thoughts]).double()
        self.sums = found if self.sums is None else self.sums + found

    def take(self, join: Callable[[Tensor], Tensor] | None) -> dict[str, float | None]:
        """Fields of a curve row, means over tokens; `join` adds up over processes. None for a class without tokens."""
        assert self.sums is not None, "a row comes after a step"
        sums = self.sums if join is None else join(self.sums)
        self.sums = None
        reasoning, thoughts, answer, answers = sums.tolist()
        return {
            "loss_reasoning": reasoning / thoughts if thoughts else None,
            "loss_answer": answer / answers if answers else None,
        }
