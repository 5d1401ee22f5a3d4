"""The teacher's side of `distill.train.auxiliary`: load of experts, balance, and the loss of further tokens.

Nothing is counted or kept before `begin`. From then on a training pass leaves here what its
loss may want; taking it lets go of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from teacher.balance import LoadMeter
from teacher.moe import Router
from teacher.mtp import FurtherToken, further_loss, further_states
from teacher.parallel.joins import Join, alone
from teacher.rows import Rows

if TYPE_CHECKING:
    from teacher.model import DeepseekForCausalLM

# N tokens, D model width, B batch rows, T batch width


@dataclass(frozen=True, slots=True)
class Pass:
    """What a forward pass leaves for the further tokens."""

    hidden_ND: Tensor
    embedded_ND: Tensor
    rows: Rows


class Auxiliary:
    """`distill.train.auxiliary.Auxiliary` of one model."""

    def __init__(self, model: "DeepseekForCausalLM") -> None:
        self.model = model
        self.meter: LoadMeter | None = None
        self.join: Join = alone
        """Adds up over ranks that share the experts: set by `teacher.parallel.training`."""
        self.keeps_pass = False
        self.last: Pass | None = None

    @property
    def has_experts(self) -> bool:
        return any(isinstance(module, Router) for module in self.model.modules())

    @property
    def has_bias(self) -> bool:
        return self.has_experts and self.model.config.topk_method == "noaux_tc"

    @property
    def further_tokens(self) -> int:
        return int(self.model.config.num_nextn_predict_layers)

    def begin(self, *, balance: bool, further: bool) -> None:
        """Count loads from now on; keep balance losses, and what further tokens need, if asked for."""
        routers = {
            layer: module
            for layer, block in enumerate(self.model.model.layers)
            for module in block.modules()
            if isinstance(module, Router) and (further or layer < self.model.config.num_hidden_layers)
        }
        self.meter = LoadMeter(routers, losses=balance, join=self.join)
        self.keeps_pass = further

    def balance_sum(self) -> Tensor:
        assert self.meter is not None, "begin was called"
        return self.meter.take_loss()

    def further_sum(self, labels_BT: Tensor) -> Tensor:
        """Mean over depths of the cross-entropy summed over loss tokens, of the last training pass (eqs. 24-25)."""
        assert self.last is not None, "a training pass came before"
        assert self.meter is not None, "begin was called"
        last, self.last = self.last, None
        body = self.model.model
        labels_N = last.rows.gather(labels_BT)
        losses = []
        modules = [layer for layer in body.layers if isinstance(layer, FurtherToken)]
        states = further_states(
            modules,
            last.hidden_ND,
            last.embedded_ND,
            last.rows,
            body.rotary.turns,
            self.meter.watching,
            checkpointed=body.gradient_checkpointing,
        )
        for depth, (state_MD, place_M, rows) in enumerate(states, 1):
            _, kept = rows.followed()
            losses.append(further_loss(state_MD[kept], labels_N[place_M[kept] + depth + 1], self.model.lm_head))
        total = torch.stack(losses).sum() if losses else labels_N.new_zeros((), dtype=torch.float32)
        return total / len(modules)

    def update_bias(self, rate: float) -> None:
        assert self.meter is not None, "begin was called"
        self.meter.update_bias(rate)

    def end_step(self) -> None:
        assert self.meter is not None, "begin was called"
        self.meter.end_step()

    def take_load(self) -> Mapping[int, Tensor]:
        assert self.meter is not None, "begin was called"
        return self.meter.take_load()
