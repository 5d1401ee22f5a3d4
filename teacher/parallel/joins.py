"""Process groups and the sums that make partial results whole.

Speaking only: every rank has the same tokens, no gradient passes. gloo for tensors on the CPU and for
messages, nccl for tensors on a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import UserError
from teacher.parallel.layout import Layout, Share

# N tokens, D width, V vocabulary

T = TypeVar("T")
Join = Callable[[Tensor], Tensor]
PATIENCE = timedelta(days=30)
"""How long a rank waits for the others: the leader may judge or sleep between two steps. A rank that died is
noticed at once, its connection breaks."""


@dataclass(frozen=True)
class Groups:
    """A layout and the ranks that share this rank's heads: all of them when `tensor` is None."""

    layout: Layout
    tensor: dist.ProcessGroup | None = None


def start(rank: int, world: int) -> None:
    """Join the processes torchrun started; address and port come from its environment."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=world, timeout=PATIENCE)


def leave() -> None:
    """Break the connections, if they stand: who waits for this process in a sum gets an error (`is_parting`)."""
    if dist.is_initialized():
        dist.destroy_process_group()


def leads() -> bool:
    """Whether this is the rank that runs the command."""
    return dist.get_rank() == 0


def is_parting(error: Exception) -> bool:
    """Whether this is what a call raises when another process is gone: gloo has no type of its own for it."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def agreed(make: Callable[[], T]) -> T:
    """What `make` gives, on every rank; UserError on all of them when one refuses, in that rank's words."""
    made, failure = None, ""
    try:
        made = make()
    except UserError as error:
        failure = str(error)
    failures = ["" for _ in range(dist.get_world_size())]
    dist.all_gather_object(failures, failure)
    if any(failures):
        raise UserError(next(filter(None, failures)))
    assert made is not None
    return made


def own_device(device: str, rank: int) -> str:
    """This rank's device of a kind, made the current one."""
    if device == "cpu":
        return device
    own = f"{device}:{rank % torch.cuda.device_count()}"
    torch.cuda.set_device(own)
    return own


def groups_of(layout: Layout) -> Groups:
    """The groups this rank belongs to. Every rank must call it at the same time."""
    tensor = None
    if 1 < layout.tensor < layout.world:
        for first in range(0, layout.world, layout.tensor):
            made = dist.new_group(list(range(first, first + layout.tensor)), timeout=PATIENCE)
            if first <= layout.rank < first + layout.tensor:
                tensor = made
    return Groups(layout, tensor)


def alone(whole: Tensor) -> Tensor:
    """The join of a module that is not split: its output is whole already."""
    return whole


def summing(group: dist.ProcessGroup | None = None) -> Join:
    """A join that adds up the partial results of a group, of all ranks by default, in place."""

    def join(partial_ND: Tensor) -> Tensor:
        dist.all_reduce(partial_ND, group=group)
        return partial_ND

    return join


class VocabularyEmbedding(nn.Embedding):
    """Rows `share` of an embedding over all ranks; a rank without a token's row adds zeros, so the sum is exact."""

    def __init__(self, vocabulary: int, width: int, share: Share) -> None:
        first, end = share.bounds(vocabulary)
        super().__init__(end - first, width)
        self.first = first

    def forward(self, input: Tensor) -> Tensor:
        local = input - self.first
        elsewhere = (local < 0) | (local >= self.num_embeddings)
        rows = F.embedding(local.masked_fill(elsewhere, 0), self.weight).masked_fill(elsewhere[..., None], 0)
        dist.all_reduce(rows)
        return rows


class VocabularyHead(nn.Linear):
    """Rows `share` of the head over all ranks; logits are gathered, so that every rank ends with the same bits."""

    def __init__(self, width: int, vocabulary: int, share: Share) -> None:
        first, end = share.bounds(vocabulary)
        super().__init__(width, end - first, bias=False)
        self.vocabulary, self.parts = vocabulary, share.parts

    def forward(self, input: Tensor) -> Tensor:
        longest = -(-self.vocabulary // self.parts)
        own = F.pad(F.linear(input, self.weight), (0, longest - self.out_features)).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.parts)]
        dist.all_gather(parts, own)
        return torch.cat(parts, dim=-1)[..., : self.vocabulary]
