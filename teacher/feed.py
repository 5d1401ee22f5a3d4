"""How a decoding step runs a layer's feed-forward: the same sums as `teacher.moe`, arranged for few tokens.

No autograd node, gate and up as one product, and expert weights laid out for the shapes of a
step (PyTorch's mm is faster on a contiguous second factor: of 16 experts of 256 x 256, 32 tokens
took 1.1 ms instead of 1.55, float32, one core of an EPYC). A single token runs its own experts
one by one and never touches the others. Whatever is not plain weights on a CPU, adapters say, is
called as the module it is.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.sampling.int8 import Int8Map, Weights
from distill.sampling.product import FEW_ROWS, LARGE_BYTES, product, turned, turns
from teacher.moe import Experts, FeedForward, MixtureOfExperts
from teacher.parallel.joins import alone

# N tokens, D width, E experts, K experts a token, F expert width, M = N*K sorted rows

TRANSPOSED_BYTES = 1 << 30
"""Experts of a layer larger than this are not copied into the other layout: memory before speed."""

Map = Callable[[Tensor], Tensor]


def feed(mlp: nn.Module, weights: Weights) -> Map:
    """The feed-forward of one layer for a step; made anew after every change of weights.

    One that ranks share is called as the module it is: it sums their parts.
    """
    if getattr(mlp, "join", alone) is not alone:
        return mlp
    if isinstance(mlp, MixtureOfExperts) and _plain_experts(mlp.experts):
        return _Mixture(mlp) if weights == "exact" else _Int8Mixture(mlp)
    if isinstance(mlp, FeedForward):
        return _dense(mlp, weights)
    return mlp


def _dense(mlp: FeedForward, weights: Weights) -> Map:
    layers = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    if any(type(layer) is not nn.Linear for layer in layers):
        return mlp
    gate_up_XD = torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()])
    down_DF = mlp.down_proj.weight.detach()
    if weights == "int8":
        return _int8_dense(gate_up_XD, down_DF)

    def run(x_ND: Tensor) -> Tensor:
        gate_NF, up_NF = product(x_ND, gate_up_XD).chunk(2, dim=-1)
        return product(F.silu(gate_NF).mul_(up_NF), down_DF)

    return run


def _int8_dense(gate_up_XD: Tensor, down_DF: Tensor) -> Map:
    gate_up, down = Int8Map(gate_up_XD), Int8Map(down_DF)

    def run(x_ND: Tensor) -> Tensor:
        gate_NF, up_NF = gate_up(x_ND).chunk(2, dim=-1)
        return down(F.silu(gate_NF).mul_(up_NF))

    return run


def _plain_experts(experts: nn.Module) -> bool:
    return type(experts) is Experts and experts.backend == "grouped_mm" and experts.down_proj.device.type == "cpu"


class _Mixture:
    """Routed and shared experts."""

    def __init__(self, mlp: MixtureOfExperts) -> None:
        self.gate, self.shared = mlp.gate, feed(mlp.shared_experts, "exact")
        gate_up_EXD, down_EDF = mlp.experts.gate_up_proj.detach(), mlp.experts.down_proj.detach()
        self.gate_up_of, self.down_of = gate_up_EXD.unbind(0), down_EDF.unbind(0)
        self.turns = turns(gate_up_EXD) and self.gate_up_of[0].nbytes >= LARGE_BYTES
        self.gate_up_EDX, self.down_EFD = gate_up_EXD.transpose(1, 2), down_EDF.transpose(1, 2)
        if gate_up_EXD.nbytes + down_EDF.nbytes <= TRANSPOSED_BYTES:
            self.gate_up_EDX, self.down_EFD = self.gate_up_EDX.contiguous(), self.down_EFD.contiguous()

    def __call__(self, x_ND: Tensor) -> Tensor:
        weights_NK, chosen_NK = self.gate(x_ND)
        routed = self._one(x_ND, weights_NK, chosen_NK) if len(x_ND) == 1 else self._many(x_ND, weights_NK, chosen_NK)
        return routed.add_(self.shared(x_ND))

    def _one(self, x_1D: Tensor, weights_1K: Tensor, chosen_1K: Tensor) -> Tensor:
        said = []
        for expert in chosen_1K[0].tolist():
            gate_1F, up_1F = product(x_1D, self.gate_up_of[expert]).chunk(2, dim=-1)
            said.append(product(F.silu(gate_1F).mul_(up_1F), self.down_of[expert]))
        return weights_1K.to(x_1D.dtype) @ torch.cat(said)

    def _many(self, x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        choices, chosen_M = chosen_NK.shape[1], chosen_NK.flatten()
        order_M = chosen_M.argsort()
        ends_E = torch.bincount(chosen_M, minlength=len(self.down_of)).cumsum(0, dtype=torch.int32)
        x_MD = x_ND.index_select(0, order_M // choices)
        if self.turns and len(x_MD) <= FEW_ROWS * len(self.down_of):
            said_MD = self._each(x_MD, ends_E.diff(prepend=ends_E.new_zeros(1)).tolist())
        else:
            said_MD = self._grouped(x_MD, ends_E)
        said_NKD = torch.empty_like(said_MD).index_copy_(0, order_M, said_MD).unflatten(0, (-1, choices))
        return torch.bmm(weights_NK.to(x_ND.dtype)[:, None], said_NKD)[:, 0]

    def _each(self, x_MD: Tensor, counts_E: list[int]) -> Tensor:
        """Large experts of few rows each, one after the other, so that each weight is read once at memory's speed."""
        said = []
        for x_ND, gate_up_XD, down_DF in zip(x_MD.split(counts_E), self.gate_up_of, self.down_of, strict=True):
            if len(x_ND):
                apply = turned if len(x_ND) <= FEW_ROWS else F.linear
                gate_NF, up_NF = apply(x_ND, gate_up_XD).chunk(2, dim=-1)
                said.append(apply(F.silu(gate_NF).mul_(up_NF), down_DF))
        return torch.cat(said)

    def _grouped(self, x_MD: Tensor, ends_E: Tensor) -> Tensor:
        gate_MF, up_MF = F.grouped_mm(x_MD, self.gate_up_EDX, offs=ends_E).chunk(2, dim=-1)
        said_MD: Tensor = F.grouped_mm(F.silu(gate_MF).mul_(up_MF), self.down_EFD, offs=ends_E)
        return said_MD


class _Int8Mixture:
    """The same with int8 experts, those that were chosen one after the other; the router stays exact."""

    def __init__(self, mlp: MixtureOfExperts) -> None:
        self.gate, self.shared = mlp.gate, feed(mlp.shared_experts, "int8")
        pairs = zip(mlp.experts.gate_up_proj.detach(), mlp.experts.down_proj.detach(), strict=True)
        self.experts = [_int8_dense(gate_up_XD, down_DF) for gate_up_XD, down_DF in pairs]

    def __call__(self, x_ND: Tensor) -> Tensor:
        weights_NK, chosen_NK = self.gate(x_ND)
        choices, chosen_M = chosen_NK.shape[1], chosen_NK.flatten()
        order_M = chosen_M.argsort()
        counts = torch.bincount(chosen_M, minlength=len(self.experts)).tolist()
        parts = x_ND.index_select(0, order_M // choices).split(counts)
        said_MD = torch.cat([run(part) for run, part in zip(self.experts, parts, strict=True) if len(part)])
        said_NKD = torch.empty_like(said_MD).index_copy_(0, order_M, said_MD).unflatten(0, (-1, choices))
        routed_ND = torch.bmm(weights_NK.to(x_ND.dtype)[:, None], said_NKD)[:, 0]
        return routed_ND.add_(self.shared(x_ND))
