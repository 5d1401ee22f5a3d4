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

Optimizer states of experts live where the experts live. Attention, embeddings and optimizer states of
shared weights are not sharded. No stage drives this yet: `sft` and `rl` run in one process.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from teacher.checkpoint import to_published
from teacher.model import DeepseekForCausalLM
from teacher.moe import Experts, MixtureOfExperts
from teacher.parallel.experts import DispatchedExperts, logger
from teacher.parallel.layout import Layout, check_layout


def split_experts(model: DeepseekForCausalLM, rank: int, world: int, transport: str = "all_to_all") -> None:
    """Keep only this rank's experts of a whole model, in place; call before an optimizer is made.

    `transport` is all_to_all or all_gather (`teacher.parallel.experts.TRANSPORTS`), logged and never replaced
    silently. Raises UserError when the ranks do not divide the experts.
    """
    layout = Layout(expert=world, rank=rank)
    check_layout(model.config, layout)
    logger.info("expert parallel over %d ranks by %s", world, transport)
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            module.experts = _dispatched(model, module.experts, layout, transport)


def sum_gradients(model: nn.Module) -> None:
    """Add up over ranks the gradients of all weights every rank has. A weight without a gradient counts as zeros."""
    own = own_parameters(model)
    for parameter in model.parameters():
        if parameter.requires_grad and id(parameter) not in own:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


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
