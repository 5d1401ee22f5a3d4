"""Expert-parallel training steps: every rank has its own rows of a batch and some of the experts.

Expert parallelism over data-parallel ranks (DeepSeek-V3, arXiv 2412.19437, section 3.2). The contract that
makes a step equal to one process with the whole batch:

1. A rank's loss is its share of the batch's: the sum over its own tokens divided by the tokens of **all**
   ranks (`num_items_in_batch` of the model's loss), not its own mean.
2. Every rank runs as many forward and backward passes as the others, also with few or no tokens.
3. `sum_gradients` after the last backward of a step adds up the gradients of everything that is not a routed
   expert. Experts have theirs already: dispatch brought them all ranks' tokens. Do not average, and do not let
   DistributedDataParallel do it: it would divide the shared weights by the ranks and not the experts.
4. A gradient norm is that of `gradient_norm`: the experts of other ranks count too.

5. The load of an expert is that of all ranks' tokens, before it is told or a bias moves (`TrainingRanks`).

Optimizer states of experts live where the experts live. Attention, embeddings and optimizer states of
shared weights are not sharded. `sft` drives it through `distill.train.ranks`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distill.errors import UserError
from distill.progress import Progress
from distill.sampling.protocols import LoadedModel
from teacher.checkpoint import to_published
from teacher.loader import load_teacher
from teacher.model import DeepseekForCausalLM
from teacher.moe import Experts, MixtureOfExperts
from teacher.parallel.experts import DispatchedExperts, logger
from teacher.parallel.joins import own_device
from teacher.parallel.layout import Layout

BUCKET = 2**22
"""Numbers of gradients that travel in one sum: a message between two processes of a busy machine takes a millisecond
whatever its size."""


def load_sharing(
    folder: Path,
    world: int,
    *,
    dtype: str,
    device: str,
    backends: Mapping[str, str],
    progress: Progress | None = None,
) -> LoadedModel:
    """On each of `world` ranks: a folder read whole, then left with this rank's experts. Raises UserError."""
    rank = dist.get_rank()
    assert world == dist.get_world_size(), "checked when the command began"
    loaded = load_teacher(folder, dtype=dtype, device=own_device(device, rank), progress=progress, **backends)
    split_experts(loaded.model, rank, world)
    return loaded


def split_experts(model: DeepseekForCausalLM, rank: int, world: int, transport: str = "all_to_all") -> None:
    """Keep only this rank's experts of a whole model, in place; call before an optimizer is made.

    `transport` is all_to_all or all_gather (`teacher.parallel.experts.TRANSPORTS`), logged and never replaced
    silently. Raises UserError when the ranks do not divide the experts.
    """
    layout, experts = Layout(expert=world, rank=rank), model.config.n_routed_experts
    if experts % world:
        raise UserError(f"expert_parallel {world}: does not divide n_routed_experts ({experts})")
    logger.info("expert parallel over %d ranks by %s", world, transport)
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            module.experts = _dispatched(model, module.experts, layout, transport)
    model.ranks = TrainingRanks(model, layout)
    model.auxiliary.join = model.ranks.sum


class TrainingRanks:
    """`distill.train.ranks.Ranks` of a model whose experts are split."""

    in_parts = True
    wrapped = False

    def __init__(self, model: DeepseekForCausalLM, layout: Layout) -> None:
        self.model, self.rank, self.world = model, layout.rank, layout.world

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self) -> None:
        sum_gradients(self.model)

    def gradient_norm(self) -> Tensor:
        return gradient_norm(self.model)

    def whole_state(self, wrapped: object) -> dict[str, Tensor]:
        return whole_state(self.model)

    def wait(self) -> None:
        dist.all_reduce(torch.zeros(1))

    def check_wrapper(self, wrapped: object) -> None:
        assert wrapped is self.model, "Trainer was kept from wrapping it"


def sum_gradients(model: nn.Module) -> None:
    """Add up over ranks the gradients of all weights every rank has. A weight without a gradient counts as zeros."""
    own = own_parameters(model)
    shared = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in own]
    for bucket in _buckets(shared):
        for weight in bucket:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        gradients = [weight.grad for weight in bucket if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
        )


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbors of one dtype, up to `BUCKET` numbers, or one that is larger."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        full = sum(weight.numel() for weight in bucket) + parameter.numel() > BUCKET
        if bucket and (full or bucket[0].dtype != parameter.dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def gradient_norm(model: nn.Module) -> Tensor:
    """Euclidean norm of the whole model's gradient, float32, the same on every rank; after `sum_gradients`."""
    own = own_parameters(model)
    device = next(model.parameters()).device
    squares = torch.zeros(2, device=device)
    for parameter in model.parameters():
        if parameter.grad is not None:
            squares[int(id(parameter) in own)] += parameter.grad.float().square().sum()
    dist.all_reduce(squares[1:])
    return squares.sum().sqrt()


def whole_state(model: DeepseekForCausalLM) -> dict[str, Tensor]:
    """The published tensors of the whole model, on every rank: what a checkpoint is written from."""
    state = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, DispatchedExperts):
            for key in ("gate_up_proj", "down_proj"):
                part = state[f"{name}.{key}"].contiguous()
                parts = [torch.empty_like(part) for _ in range(module.layout.world)]
                dist.all_gather(parts, part)
                state[f"{name}.{key}"] = torch.cat(parts)
    return to_published(state)


def own_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters only this rank has."""
    return {id(p) for module in model.modules() if isinstance(module, DispatchedExperts) for p in module.parameters()}


def _dispatched(model: DeepseekForCausalLM, whole: Experts, layout: Layout, transport: str) -> DispatchedExperts:
    with torch.device("meta"):
        own = DispatchedExperts(model.config, whole.backend, layout, transport)
    part = slice(own.own.start, own.own.stop)
    own.gate_up_proj = nn.Parameter(whole.gate_up_proj.detach()[part].clone())
    own.down_proj = nn.Parameter(whole.down_proj.detach()[part].clone())
    return own.train(whole.training)
