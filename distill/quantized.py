"""Which layers bitsandbytes may hold in 8 or 4 bits, and what has to be told to those that are.

Facts of bitsandbytes 0.50 on a CPU; the shapes hold on every machine.
"""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

BLOCK = 64
"""4-bit layers share one scale among 64 inputs; other widths lose accuracy (0.36 instead of 0.09 at 48)."""
OUTPUT_MULTIPLE = 32
"""Outputs of a 4-bit layer that the packed kernels of other machines accept."""


def fits(layer: "nn.Linear") -> bool:
    """True when the 4-bit kernels take this shape on every machine."""
    return layer.in_features % BLOCK == 0 and layer.out_features % OUTPUT_MULTIPLE == 0


def keep_unpacked(model: Any) -> None:
    """Stop 4-bit layers from repacking their weights on processors with avx512_bf16.

    bitsandbytes 0.50 repacks in the first forward in eval mode. From then on a save is corrupt
    (reload error 0.6), gradients of adapters are silently None, and outputs that are no multiple
    of 32 crash. Unpacked, a step of one token takes about twice as long. What 8-bit layers say at every call is
    silenced here too.
    """
    # It says at every call of every layer that int8 products run in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
