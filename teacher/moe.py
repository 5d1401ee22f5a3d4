"""Mixture of experts with a bias-steered, group-limited router (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).

The router works in float32: in bfloat16 it picks other experts. The correction bias
steers which experts are chosen and never enters their weights. No token is dropped.
Experts live in two 3-D tensors; how they are multiplied is an explicit choice. Does not
balance load: a `meter` sees what the router does (`teacher.balance`), the trainer decides.
"""

import importlib.util
import logging
import os
from typing import Literal, Protocol, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import UserError, did_you_mean
from teacher.checkpoint import stack_experts
from teacher.config import TeacherConfig
from teacher.kernels import grouped_mm, reference
from teacher.parallel.joins import Join, alone

# N tokens, D width, E experts, K experts a token, F expert width, G groups

logger = logging.getLogger(__name__)

Backend = Literal["reference", "grouped_mm", "triton"]
"""`reference`: a loop over experts. `grouped_mm`: torch's grouped product. `triton`: teacher.kernels."""


def choose_backend(name: str, *, tell: bool = True) -> Backend:
    """The named backend, logged with the reason it can run here unless `tell` is off. UserError when it cannot; never
    falls back."""
    if name == "reference":
        reason = "a loop over experts in plain PyTorch"
    elif name == "grouped_mm":
        reason = "torch's grouped product, on any device"
    elif name == "triton":
        reason = _why_triton_runs()
    else:
        known = get_args(Backend)
        raise UserError(f"experts_backend {name}: unknown{did_you_mean(name, known)}; there are {', '.join(known)}")
    if tell:
        logger.info("experts backend %s: %s", name, reason)
    return cast(Backend, name)


def _why_triton_runs() -> str:
    if importlib.util.find_spec("triton") is None:
        raise UserError("experts_backend triton: triton is not installed; choose grouped_mm")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1, slow and for tests"
    if torch.cuda.is_available():
        return f"compiled for {torch.cuda.get_device_name()}"
    raise UserError("experts_backend triton: needs a CUDA device (or TRITON_INTERPRET=1); choose grouped_mm")


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202): the dense layers' and the shared expert's."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.join: Join = alone
        """What makes the output whole where ranks share the inner width: set by `teacher.parallel`."""
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.join(self.down_proj(F.silu(self.gate_proj(x_ND)) * self.up_proj(x_ND)))


class Meter(Protocol):
    """Who watches a router in training."""

    def see(self, router: "Router", scores_NE: Tensor, chosen_NK: Tensor) -> None:
        """Scores, with their graph, and chosen experts of one batch."""


class Router(nn.Module):
    """Chooses K of E experts a token."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        self.meter: Meter | None = None
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        if config.topk_method == "noaux_tc":
            self.e_score_correction_bias = nn.Buffer(torch.zeros(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Routing weights (N, K), float32 or wider, and chosen experts (N, K)."""
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        logits_NE = F.linear(x_ND.to(wide), self.weight.to(wide))
        scores_NE = logits_NE.sigmoid() if self.config.scoring_func == "sigmoid" else logits_NE.softmax(-1)
        chosen_NK = self._choose(scores_NE.detach())
        if self.meter is not None:
            self.meter.see(self, scores_NE, chosen_NK)
        weights_NK = scores_NE.gather(1, chosen_NK)
        if self.config.normalizes:
            weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
        if self.config.scales:
            weights_NK = weights_NK * self.config.routed_scaling_factor
        return weights_NK, chosen_NK

    def _choose(self, scores_NE: Tensor) -> Tensor:
        """V3 report, eqs. 14-16 (V2: arXiv 2405.04434, eqs. 21-22 and section 2.2.2): the bias joins the choice;
        only the best groups stay eligible, ranked by their two best experts, or in V2 by their best."""
        biased = self.config.topk_method == "noaux_tc"
        if biased:
            scores_NE = scores_NE + self.e_score_correction_bias
        if self.config.grouped:
            grouped_NGX = scores_NE.unflatten(-1, (self.config.n_group, -1))
            group_scores_NG = grouped_NGX.topk(2 if biased else 1, dim=-1).values.sum(-1)
            kept = group_scores_NG.topk(self.config.topk_group, dim=-1, sorted=False).indices
            closed_NG = torch.ones_like(group_scores_NG, dtype=torch.bool).scatter(1, kept, False)
            # -inf and not 0: with negative biases a closed expert at 0 would win
            scores_NE = grouped_NGX.masked_fill(closed_NG[..., None], -torch.inf).flatten(1)
        return scores_NE.topk(self.config.num_experts_per_tok, dim=-1, sorted=False).indices


class Experts(nn.Module):
    """The routed experts, stacked. Accepts the published one-tensor-an-expert names when loading."""

    def __init__(self, config: TeacherConfig, backend: Backend) -> None:
        super().__init__()
        experts, inner, width = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.backend: Backend = backend
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))
        self.register_load_state_dict_pre_hook(_stack_published)

    def forward(self, x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        if self.backend == "triton":
            from teacher.kernels.grouped_mlp import grouped_mlp

            return grouped_mlp(x_ND, weights_NK, chosen_NK, self.gate_up_proj, self.down_proj)
        if self.backend == "grouped_mm":
            return grouped_mm.grouped_mlp(x_ND, weights_NK, chosen_NK, self.gate_up_proj, self.down_proj)
        return reference.grouped_mlp(x_ND, weights_NK, chosen_NK, self.gate_up_proj, self.down_proj)


def _stack_published(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Trainers resume through `load_state_dict` with the names that are on disk."""
    stack_experts(state, prefix, len(module.down_proj))  # type: ignore[arg-type]


class MixtureOfExperts(nn.Module):
    """Routed experts plus the shared one that every token passes."""

    def __init__(self, config: TeacherConfig, backend: Backend) -> None:
        super().__init__()
        self.join: Join = alone
        """As `FeedForward.join`, over routed and shared experts together."""
        self.gate = Router(config)
        self.experts = Experts(config, backend)
        self.shared_experts = FeedForward(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x_ND: Tensor) -> Tensor:
        weights_NK, chosen_NK = self.gate(x_ND)
        return self.join(self.experts(x_ND, weights_NK, chosen_NK) + self.shared_experts(x_ND))
