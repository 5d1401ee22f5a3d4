"""What a model may offer its trainer beyond logits: even load of experts, and losses of further tokens.

A mixture of experts that sends most tokens to few experts wastes the others. Two remedies of
DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): a bias moved after every step (arXiv 2408.15664),
which adds no gradient, and a balance loss within sequences. Its modules for further tokens
(section 2.2) have a loss of their own. `distill` owns the protocol and knows no model: one
that has something to offer has an attribute `auxiliary`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill.errors import UserError
from distill.train.curve import ExpertLoad
from distill.train.ranks import ranks_of
from distill.train.schedule import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

# B batch rows, T batch width, E experts


class Auxiliary(Protocol):
    """The attribute `auxiliary` of a model. Nothing is kept before `begin`; only training passes leave anything."""

    @property
    def has_experts(self) -> bool:
        """Whether tokens are routed to experts."""

    @property
    def has_bias(self) -> bool:
        """Whether its routers have a bias that steers load."""

    @property
    def further_tokens(self) -> int:
        """Modules that predict a further token."""

    def begin(self, *, balance: bool, further: bool) -> None:
        """Count loads from now on; keep balance losses, and what further tokens need, if asked for."""

    def balance_sum(self) -> "Tensor":
        """The balance loss since it was last asked for, a scalar: summed over sequences and layers."""

    def further_sum(self, labels_BT: "Tensor") -> "Tensor":
        """Cross-entropy of further tokens of the last pass, a scalar: summed over labels that are not -100,
        mean over modules."""

    def update_bias(self, rate: float) -> None:
        """Move every bias by `rate` against the load since `end_step`."""

    def end_step(self) -> None:
        """An optimizer step is over: forget its load."""

    def take_load(self) -> "Mapping[int, Tensor]":
        """Tokens of every expert since this was last asked, (E,) int64, by layer; of all processes that share it."""


class Extras:
    """One run's share in `Auxiliary`: checked, weighted, added to the loss, averaged between rows of the curve."""

    def __init__(self, model: Any, config: TrainConfig, further_weight: float, folder: Path) -> None:
        """`further_weight`: of the further tokens' loss. Raises UserError for a weight the model has nothing for."""
        self.offered: Auxiliary | None = getattr(model, "auxiliary", None)
        self.ranks = ranks_of(model)
        self.balance_weight, self.further_weight = config.balance_loss, further_weight
        self.bias_rate = config.bias_update
        offered = self.offered
        experts = offered is not None and offered.has_experts
        _refuse(folder, "balance_loss", self.balance_weight, "no routed experts", there=experts)
        _refuse(folder, "bias_update", self.bias_rate, "no routed experts", there=experts)
        biased = offered is not None and offered.has_bias
        _refuse(folder, "bias_update", self.bias_rate, "no bias in its routers (use balance_loss)", there=biased)
        further = offered is not None and offered.further_tokens > 0
        _refuse(folder, "mtp_loss", further_weight, "no module for further tokens", there=further)
        if offered is not None:
            offered.begin(balance=self.balance_weight > 0, further=further_weight > 0)
        self.steps = 0
        self.balance: Tensor | float = 0.0
        self.further: Tensor | float = 0.0

    def loss(self, sequences: int, labels_BT: "Tensor | None" = None, items: Any = None) -> "Tensor | float":
        """What the pass just run adds to the loss of its step, or 0.

        `sequences` and `items`: sequences and loss tokens of the whole step, over which means are taken; those of all
        processes where several share the step.
        """
        total: Tensor | float = 0.0
        if self.offered is None:
            return total
        if self.further_weight and labels_BT is not None:
            further = self.offered.further_sum(labels_BT) / items
            self.further = self.further + further.detach()
            total = total + self.further_weight * further
        if self.balance_weight:  # after the modules for further tokens, which route too
            balance = self.offered.balance_sum() / sequences
            self.balance = self.balance + balance.detach()
            total = total + self.balance_weight * balance
        return total

    def end_step(self) -> None:
        """After an optimizer step."""
        self.steps += 1
        if self.offered is None:
            return
        if self.bias_rate:
            self.offered.update_bias(self.bias_rate)
        self.offered.end_step()

    def take(self) -> dict[str, Any]:
        """Fields of a curve row, means over the steps since the last one: `balance_loss`, `mtp_loss`, `experts`."""
        steps = max(1, self.steps)
        fields = {
            "balance_loss": self._whole(self.balance) / steps if self.balance_weight else None,
            "mtp_loss": self._whole(self.further) / steps if self.further_weight else None,
            "experts": expert_load(self.offered.take_load()) if self.offered is not None else None,
        }
        self.steps, self.balance, self.further = 0, 0.0, 0.0
        return fields

    def _whole(self, share: "Tensor | float") -> float:
        """This process's share of a loss and those of the others."""
        if self.ranks is None or isinstance(share, float):  # a float: no pass came, on any process
            return float(share)
        return float(self.ranks.sum(share.clone()))

    def weighted(self, fields: Mapping[str, Any]) -> float:
        """What the losses in these fields added to the step's."""
        balance, further = fields["balance_loss"] or 0.0, fields["mtp_loss"] or 0.0
        return float(self.balance_weight * balance + self.further_weight * further)


def expert_load(by_layer: "Mapping[int, Tensor]") -> ExpertLoad | None:
    """Loads as a curve row tells them; None where no token was routed."""
    relative = {layer: count_E / count_E.double().mean() for layer, count_E in by_layer.items() if int(count_E.sum())}
    if not relative:
        return None
    return ExpertLoad(
        max_violation=sum(float(load_E.max()) - 1.0 for load_E in relative.values()) / len(relative),
        dead=sum(int((load_E == 0).sum()) for load_E in relative.values()) / sum(map(len, relative.values())),
        by_layer={str(layer): tuple(round(load, 3) for load in load_E.tolist()) for layer, load_E in relative.items()},
    )


def _refuse(folder: Path, key: str, value: float, lacks: str, *, there: bool) -> None:
    if value and not there:
        raise UserError(f"{folder}: {key} = {value:g}, but this model has {lacks}; expected 0")
