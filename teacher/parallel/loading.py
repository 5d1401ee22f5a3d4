"""Load one rank's part of a folder: only its own tensors, and of those only its own rows or columns, are read.

Layer by layer, straight to the rank's device, so that a rank never holds more than its part and one
layer. FP8 matrices are made wide, or with dtype `fp8` stay as they are (`teacher.resident`).
"""

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.progress import Progress
from teacher.checkpoint import Weights, keep_open, to_published
from teacher.config import TeacherConfig
from teacher.fp8 import LARGEST, SCALE
from teacher.loader import DTYPES, check_folder, kept_dtype
from teacher.model import DeepseekForCausalLM
from teacher.moe import MixtureOfExperts
from teacher.parallel.experts import Fp8ExpertShare
from teacher.parallel.joins import Groups
from teacher.parallel.layout import Layout, Share, check_layout, share_of
from teacher.parallel.split import local_name, main_config, split_model
from teacher.resident import FP8, Fp8Linear

logger = logging.getLogger(__name__)

RESIDENT = "fp8"
"""The dtype that keeps FP8 matrices as they are stored; everything else is bfloat16."""
_LAYER = re.compile(r"model\.layers\.\d+")


def load_share(
    folder: Path,
    groups: Groups,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    experts_backend: str = "grouped_mm",
    attention_backend: str = "sdpa",
    progress: Progress | None = None,
) -> DeepseekForCausalLM:
    """This rank's part of a folder's model, frozen. UserError naming the folder and what is wrong with it.

    dtype: float32, bfloat16, float16, or fp8 for a folder of FP8 matrices that are to stay so.
    """
    if dtype not in (*DTYPES, RESIDENT):
        raise UserError(f"dtype {dtype}: unknown; there are {', '.join((*DTYPES, RESIDENT))}")
    config, weights = check_folder(folder)
    keep, wide = dtype == RESIDENT, torch.bfloat16 if dtype == RESIDENT else DTYPES[dtype]
    model = split_model(config, groups, experts_backend, attention_backend)
    kept: Collection[str] = ()
    if keep:
        check_layout(config, groups.layout, fp8=True)
        kept = keep_fp8(model, config, groups.layout, lambda name: name in weights.scales)
        if not kept:
            raise UserError(f"dtype {RESIDENT}: {folder} holds no {FP8} matrices; choose {', '.join(DTYPES)}")
    layers = list(_by_layer(config, groups.layout))
    with (progress or Progress("quiet")).task(f"read {folder.name}", len(layers), "layers") as task:
        for shares in layers:
            state = _read(weights, shares, wide, device, kept)
            named = {local_name(name, config, groups.layout): tensor for name, tensor in state.items()}
            model.load_state_dict(named, strict=False, assign=True)
            task.advance()
    if config.tie_word_embeddings:
        model.tie_weights()
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    assert not missing, f"never read: {missing[:3]}"
    model.config.dtype = wide
    model.set_attention_backend(attention_backend)
    if keep:
        logger.info("experts in fp8: made wide and multiplied one at a time, the only way there is")
    else:
        model.set_experts_backend(experts_backend)
    model.requires_grad_(False).eval()
    return model


def _by_layer(config: TeacherConfig, layout: Layout) -> Iterator[dict[str, Share]]:
    """This rank's part of every published tensor, a layer at a time."""
    with torch.device("meta"):
        whole = DeepseekForCausalLM(main_config(config))
    names = list(to_published(whole.state_dict()))
    if config.tie_word_embeddings:
        names.remove("lm_head.weight")

    def layer(name: str) -> str:
        found = _LAYER.match(name)
        return found[0] if found else ""

    for _, members in groupby(names, layer):
        shares = {name: share_of(name, config, layout) for name in members}
        yield {name: share for name, share in shares.items() if share is not None}


def _read(
    weights: Weights, shares: Mapping[str, Share], wide: torch.dtype, device: str, kept: Collection[str]
) -> dict[str, Tensor]:
    """One layer's tensors by published name; those in `kept` as they are stored, their scales beside them."""
    stored: dict[str, Tensor] = {}
    targets, parts = {}, {}
    opened = keep_open()
    for name in weights.in_order(shares):
        shape, share = weights.stored[name].shape, shares[name]
        if name in kept:
            part = weights.as_stored(name, share.ranges(shape), opened)
            scale = weights.as_stored(name + SCALE, share.ranges(weights.scales[name].shape), opened).float()
            if not (part.float().isfinite().all() and (scale * LARGEST).isfinite().all()):
                raise UserError(f"{weights.stored[name].file}: tensor {name}: not finite, or not when it is made wide")
            stored[name] = part.clone().to(device)  # the mapped file is not the model's to keep
            stored[name + SCALE] = scale.clone().to(device)
        else:
            parts[name] = share.ranges(shape)
            size = [len(range(length)[part]) for length, part in zip(shape, _padded(parts[name], shape), strict=True)]
            targets[name] = torch.empty(size, dtype=kept_dtype(name, wide), device=device)
    weights.read_into(targets, parts)
    return {**targets, **stored}


def _padded(part: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return (*part, *(slice(None),) * (len(shape) - len(part)))


def keep_fp8(
    model: DeepseekForCausalLM, config: TeacherConfig, layout: Layout, is_fp8: Callable[[str], bool]
) -> Collection[str]:
    """Put resident modules where published matrices are FP8; the names of those that stay so.

    Others in FP8 (an embedding, a router, a rank's rows of the head, some experts of a layer) have no resident module
    and are to be made wide.
    """
    kept: set[str] = set()
    with torch.device("meta"):
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and is_fp8(f"{name}.weight"):
                resident = Fp8Linear(module.in_features, module.out_features, module.bias is not None)
                model.set_submodule(name, resident)
                kept.add(f"{name}.weight")
            elif isinstance(module, MixtureOfExperts):
                experts = range(config.n_routed_experts)
                names = [f"{name}.experts.{e}.{part}_proj.weight" for e in experts for part in ("gate", "up", "down")]
                mixed = {is_fp8(published) for published in names}
                if mixed == {True, False}:
                    logger.info("experts of %s are not all FP8: made wide", name)
                elif mixed == {True}:
                    module.set_submodule("experts", Fp8ExpertShare(config, layout))
                    kept.update(names)
    return kept
