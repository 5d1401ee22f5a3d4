"""Several processes that train one model: what the stage and its trainer ask of them.

Every process runs the whole stage on its own rows of every batch, with the whole model (`distill.train.replicas`)
or its own part of it; process 0 alone writes what is read later. `distill` knows no split: a model whose parts
live on several processes has an attribute `ranks`, set by whoever split it. Transformers' Trainer would wrap such a
model in DistributedDataParallel, which averages all gradients; here they are summed, and of whole parameters only.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Agree = Callable[[Callable[[], T]], T]
"""Call on every process; where one refuses, all do, in its words."""


class Ranks(Protocol):
    """The attribute `ranks` of a model that is split over processes. All of them make every call, in the same order."""

    @property
    def rank(self) -> int:
        """This process, from 0."""

    @property
    def world(self) -> int:
        """Processes in all."""

    def sum(self, tensor: "Tensor") -> "Tensor":
        """Add up over processes, in place."""

    def sum_gradients(self) -> None:
        """After the last backward pass of a step: gradients as one process with all rows would have them."""

    def gradient_norm(self) -> "Tensor":
        """Euclidean norm of the whole model's gradient, the same on every process."""

    def whole_state(self, wrapped: Any) -> "dict[str, Tensor] | None":
        """All tensors of the whole model by published name; None where process 0 has them."""

    def wait(self) -> None:
        """Go on when all are here."""

    @property
    def in_parts(self) -> bool:
        """Whether each process has a part of its own to keep in a resumable state."""

    @property
    def wrapped(self) -> bool:
        """Whether Trainer wraps the model, and the wrapper averages gradients: of losses times `world`, a sum."""

    def check_wrapper(self, wrapped: Any) -> None:
        """UserError unless the model is wrapped in what was asked for."""


def ranks_of(model: Any) -> Ranks | None:
    """Who shares this model; None where one process has it alone."""
    found: Ranks | None = getattr(model, "ranks", None)
    return found


def alone(make: Callable[[], T]) -> T:
    """`Agree` of one process."""
    return make()
