"""Muon for matrices, AdamW for the rest, in one optimizer.

Muon (Jordan et al. 2024, github.com/KellerJordan/Muon): momentum, then the nearest
half-orthogonal matrix by Newton-Schulz iteration. Matrices of one shape are iterated
together, and so are the experts of a 3-D tensor (E, out, in), each as a matrix of its own.
No sharding: every process holds whole matrices.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.adamw import adamw

from distill.train.schedule import ROUTERS, TrainConfig, rate_at

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic whose slope at zero is steepest while singular values stay within about 0.7 to 1.2 (Jordan et al. 2024)."""
MOMENTUM = 0.95
ITERATIONS = 5
BETAS, EPSILON = (0.9, 0.95), 1e-8


def orthogonalize(matrices: torch.Tensor, iterations: int = ITERATIONS) -> torch.Tensor:
    """Nearest half-orthogonal matrices of (..., out, in), roughly: singular values come near 1, vectors stay."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    nearest: torch.Tensor = x.mT if tall else x
    return nearest


def split_parameters(model: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Trainable parameters as (matrices, rest); embeddings, head, routers and vectors are the rest."""
    ends = {id(layer.weight) for layer in (_input(model), _output(model)) if layer is not None}
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        module = name.rsplit(".", 2)[-2] if "." in name else ""
        is_matrix = parameter.ndim in (2, 3) and id(parameter) not in ends and module not in ROUTERS
        (matrices if is_matrix else rest).append(parameter)
    return matrices, rest


class Muon(torch.optim.Optimizer):
    """Groups with `orthogonal` true take Muon steps, the others AdamW steps."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            (self._muon if group["orthogonal"] else self._adamw)(group, parameters)

    def _muon(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        alike: dict[tuple[int, int], list[torch.Tensor]] = {}
        for parameter in parameters:
            alike.setdefault((parameter.shape[-2], parameter.shape[-1]), []).append(parameter)
        for (rows, columns), members in alike.items():
            wanted = torch.cat([self._direction(member).view(-1, rows, columns) for member in members])
            # Tall matrices move further, so that all shapes change their outputs alike (Jordan et al. 2024).
            rate = group["lr"] * max(1.0, rows / columns) ** 0.5
            updates = orthogonalize(wanted).split([member.numel() // (rows * columns) for member in members])
            for member, update in zip(members, updates, strict=True):
                member.mul_(1 - group["lr"] * group["weight_decay"])
                member.add_(update.view_as(member), alpha=-rate)

    def _direction(self, parameter: torch.Tensor) -> torch.Tensor:
        """Nesterov momentum of a gradient."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: torch.Tensor = state["momentum"]
        assert parameter.grad is not None
        momentum.lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(momentum, MOMENTUM)

    def _adamw(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=EPSILON,
            maximize=False,
        )


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> Muon:
    """The optimizer a training table asks for."""
    matrices, rest = split_parameters(model)
    muon = config.optimizer == "muon"
    rate = config.muon_learning_rate if muon else config.learning_rate
    groups = [
        {"params": matrices, "lr": rate, "weight_decay": config.weight_decay, "orthogonal": muon},
        {"params": rest, "lr": config.learning_rate},
    ]
    return Muon([group for group in groups if group["params"]])


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm-up, plateau and decay over all steps, as the table says."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_at(step, steps, config.warmup_steps, config.decay_share)
    )


def _input(model: torch.nn.Module) -> torch.nn.Module | None:
    get = getattr(model, "get_input_embeddings", None)
    return get() if get else None


def _output(model: torch.nn.Module) -> torch.nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    return get() if get else None
