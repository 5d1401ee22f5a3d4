"""Adapters become part of a checkpoint, scored before and after.

Over a quantized base there are two weights they may be added to. Into the original ones (the default): what
quantization took away comes back, and the file is what any other training would have left. Into the base's, whose
errors the adapters were trained beside: exactly the model that was trained, without the original's precision.
docs/lora.md has both measured. Sums are float32, as every checkpoint here is on disk: an adapter's step is often
smaller than the spacing of bfloat16.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distill.plan import RESERVED
from distill.train.adapters import FOLDER, Adapters
from distill.train.held_out import first_rows, fused_head, held_out_loss
from distill.train.outcome import Merged
from distill.train.rows import Rows

RESCORED = 16
"""Rows trained on that are scored where none were held out."""


def merge(
    model: Any,
    adapters: Adapters,
    out: Path,
    *,
    base: str,
    rows: Rows,
    held_out: Rows | None,
    reload: Callable[[str], Any],
) -> tuple[Any, Merged]:
    """Write the adapters into `out`, and give back the model with them added, which is `model` where it was whole.

    `base`: name of the checkpoint they belong to. `reload`: opens that checkpoint's model on a device.
    """
    scored = held_out or first_rows(rows, RESCORED)
    config = adapters.config
    as_trained = _score(model, scored)
    adapters.save(model, out / FOLDER, base)
    deltas = adapters.deltas(model)
    bases = adapters.base_weights(model) if config.merge_into == "base" else {}
    if config.base == "full":
        adapters.remove(model)
        merged = model
    else:
        device = str(model.get_input_embeddings().weight.device)
        model.to("cpu")
        merged = reload(device if _has_room(device, adapters.whole_bytes) else "cpu")
    with torch.no_grad():
        for name, delta_OI in deltas.items():
            weight_OI = merged.get_submodule(name).weight
            if name in bases:
                weight_OI.copy_(bases[name])
            weight_OI.add_(delta_OI.to(weight_OI.device))
    return merged, Merged(
        as_trained=as_trained,
        merged=_score(merged, scored),
        rows=len(scored.token_ids),
        held_out=held_out is not None,
        base=config.base,
        merged_into=config.merge_into,
    )


def _score(model: Any, rows: Rows) -> float:
    with fused_head(model):
        return held_out_loss(model, rows, bf16=False)


def _has_room(device: str, needed: int) -> bool:
    if not device.startswith("cuda"):
        return True
    torch.cuda.empty_cache()
    return needed <= torch.cuda.mem_get_info(device)[0] * (1 - RESERVED)
