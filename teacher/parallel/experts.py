"""A rank's experts, for two situations.

`ExpertShare` speaks: every rank has the same tokens, computes those that chose one of its experts and
returns a partial sum. `DispatchedExperts` trains: every rank has its own tokens and sends each to the
ranks of its experts and back (DeepSeek-V3, arXiv 2412.19437, section 3.2). A token that chose two
experts of one rank travels twice; nothing overlaps computation with travel. How many tokens go where
depends on the data, so on a GPU both wait for it once a layer.
"""

import copy
import logging
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from distill.errors import UserError
from teacher.config import TeacherConfig
from teacher.moe import Backend, Experts
from teacher.parallel.layout import Layout
from teacher.resident import Fp8Experts

# N tokens, D width, K experts a token, M pairs of token and expert, R pairs received

logger = logging.getLogger(__name__)

Speak = Callable[[Tensor, Tensor, Tensor], Tensor]

TRANSPORTS = ("all_to_all", "all_gather")
"""all_to_all: every pair goes to its expert's rank. all_gather: every pair goes to every rank, for backends
that have no all-to-all; moves as many times more bytes as there are ranks."""


def local_config(config: TeacherConfig, layout: Layout) -> TeacherConfig:
    """The configuration an `Experts` module of this rank's size is built from."""
    local = copy.copy(config)
    local.n_routed_experts = config.n_routed_experts // layout.expert
    local.moe_intermediate_size = config.moe_intermediate_size // layout.inner
    return local


def speak_own(speak: Speak, own: range, x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
    """Partial sum (N, D) over the choices that fall on the experts `own`; `speak` numbers them from 0."""
    local_NK = chosen_NK - own.start
    token_M, choice_M = ((local_NK >= 0) & (local_NK < len(own))).nonzero(as_tuple=True)
    if not len(token_M):
        return torch.zeros_like(x_ND)
    weights_M1, local_M1 = weights_NK[token_M, choice_M, None], local_NK[token_M, choice_M, None]
    spoken_MD = speak(x_ND.index_select(0, token_M), weights_M1, local_M1)
    return torch.zeros_like(x_ND).index_add(0, token_M, spoken_MD)


class ExpertShare(Experts):
    """This rank's experts over tokens that every rank has."""

    def __init__(self, config: TeacherConfig, backend: Backend, layout: Layout) -> None:
        super().__init__(local_config(config, layout), backend)
        self.own = layout.experts(config.n_routed_experts)

    def forward(self, x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        return speak_own(super().forward, self.own, x_ND, weights_NK, chosen_NK)


class Fp8ExpertShare(Fp8Experts):
    """`ExpertShare` over experts that stay in FP8."""

    def __init__(self, config: TeacherConfig, layout: Layout) -> None:
        local = local_config(config, layout)
        super().__init__(local.n_routed_experts, config.hidden_size, local.moe_intermediate_size)
        self.own = layout.experts(config.n_routed_experts)

    def forward(self, x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        return speak_own(super().forward, self.own, x_ND, weights_NK, chosen_NK)


class DispatchedExperts(Experts):
    """This rank's experts over tokens that live on all ranks; differentiable.

    An expert's gradient holds the tokens of all ranks, a token's gradient comes home.
    """

    def __init__(self, config: TeacherConfig, backend: Backend, layout: Layout, transport: str) -> None:
        super().__init__(local_config(config, layout), backend)
        if transport not in TRANSPORTS:
            raise UserError(f"transport {transport}: unknown; there are {', '.join(TRANSPORTS)}")
        self.own, self.layout, self.transport = layout.experts(config.n_routed_experts), layout, transport

    def forward(self, x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        choices = chosen_NK.shape[1]
        rank_M = chosen_NK.flatten() // len(self.own)
        order_M = rank_M.argsort(stable=True)
        token_M = order_M // choices
        sent = torch.bincount(rank_M, minlength=self.layout.world)
        received = torch.empty_like(sent)
        _swap(received, sent, self.transport)
        there, here = sent.tolist(), received.tolist()
        expert_M = chosen_NK.flatten().index_select(0, order_M)
        expert_R = exchange(expert_M[:, None], there, here, self.transport)
        x_RD = exchange(x_ND.index_select(0, token_M), there, here, self.transport)
        one_R1 = weights_NK.new_ones(len(x_RD), 1)  # weighted at home, where the weight's gradient is wanted
        spoken_RD = super().forward(x_RD, one_R1, expert_R - self.own.start)
        spoken_MD = exchange(spoken_RD, here, there, self.transport)
        weight_M1 = weights_NK.flatten().index_select(0, order_M)[:, None].to(spoken_MD.dtype)
        return torch.zeros_like(x_ND).index_add(0, token_M, spoken_MD * weight_M1)


def exchange(x_MD: Tensor, sent: list[int], received: list[int], transport: str = "all_to_all") -> Tensor:
    """Rows to other ranks and theirs here: (M, D), sorted by destination -> (R, D), sorted by origin.

    `sent[r]` rows go to rank r, `received[r]` come from it. The gradient travels back the same way.
    """
    output: Tensor = _Exchange.apply(x_MD, sent, received, transport)
    return output


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_MD, sent, received, transport):  # type: ignore[no-untyped-def]
        ctx.sent, ctx.received, ctx.transport = sent, received, transport
        return _moved(x_MD, sent, received, transport)

    @staticmethod
    def backward(ctx, gradient_RD):  # type: ignore[no-untyped-def]
        return _moved(gradient_RD, ctx.received, ctx.sent, ctx.transport), None, None, None


def _moved(x_MD: Tensor, sent: list[int], received: list[int], transport: str) -> Tensor:
    x_MD = x_MD.contiguous()
    moved_RD = x_MD.new_empty(sum(received), *x_MD.shape[1:])
    if transport == "all_to_all":
        dist.all_to_all_single(moved_RD, x_MD, received, sent)
        return moved_RD
    return _gathered(x_MD, sent, received, moved_RD)


def _gathered(x_MD: Tensor, sent: list[int], received: list[int], moved_RD: Tensor) -> Tensor:
    """What `all_to_all_single` does, by all ranks telling all: padded to the rank that sends most."""
    rank, world = dist.get_rank(), dist.get_world_size()
    table = [torch.empty(world, dtype=torch.int64, device=x_MD.device) for _ in range(world)]
    dist.all_gather(table, torch.tensor(sent, device=x_MD.device))
    rows = torch.stack(table)
    longest = int(rows.sum(1).max())
    padded = x_MD.new_zeros(longest, *x_MD.shape[1:])
    padded[: len(x_MD)] = x_MD
    everything = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(everything, padded)
    starts = rows.cumsum(1) - rows
    parts = [all_[int(starts[r, rank]) :][: received[r]] for r, all_ in enumerate(everything)]
    return torch.cat(parts, out=moved_RD)


def _swap(received: Tensor, sent: Tensor, transport: str) -> None:
    """Tell every rank how many rows come."""
    if transport == "all_to_all":
        dist.all_to_all_single(received, sent)
        return
    table = [torch.empty_like(sent) for _ in range(len(sent))]
    dist.all_gather(table, sent)
    received.copy_(torch.stack(table)[:, dist.get_rank()])
