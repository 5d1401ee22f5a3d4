"""FP8 weights in blocks: 8-bit numbers and one scale for every 128 x 128 of them.

DeepSeek-V3 (arXiv 2412.19437, section 3.3.2) as its folders store it: e4m3 numbers, and
beside each matrix a `weight_scale_inv` with one float32 a block. Despite the name the scale
multiplies: W = q * scale_inv. The last block of a row or column may be ragged. With
`scale_fmt: ue8m0` (DeepSeek-V3.1) scales are powers of two, in float32 or in e8m0.
Does not multiply in FP8: weights are made wide when they are read.
"""

import math
from typing import Any

import torch
from torch import Tensor

from distill.errors import UserError, shown

# R rows, C columns, r and c blocks along them

BLOCK = 128
"""Rows and columns of one block, as published; other sizes are refused."""
LARGEST = 448.0
"""Largest e4m3 number (arXiv 2209.05433, table 1)."""
SCALE = "_scale_inv"
"""Ending of the scale's name, after the weight's."""
SMALLEST_AMAX = 1e-4
"""A block of zeros gets this scale times 1/448 (clamp of the reference code's activation kernel)."""

_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "quant_method": ("fp8",),
    "fmt": ("e4m3",),
    "weight_block_size": ([BLOCK, BLOCK],),
    "activation_scheme": ("dynamic",),
    "scale_fmt": ("float", "ue8m0"),
    "expert_dtype": ("fp8",),
}
_REQUIRED = ("quant_method", "weight_block_size")
_IRRELEVANT = ("modules_to_not_convert", "modules_to_convert", "ignored_layers", "dequantize")
"""Which modules are quantized is read off the tensors' dtypes."""


def check_quantization(settings: Any, where: str) -> bool:
    """Whether a config's `quantization_config` means FP8 blocks; UserError naming the key for any other kind."""
    if settings is None:
        return False
    if not isinstance(settings, dict):
        raise UserError(f"{where}: key quantization_config: {shown(settings)}, expected an object")
    for key, value in settings.items():
        if key in _IRRELEVANT:
            continue
        if key not in _ACCEPTED:
            raise UserError(f"{where}: key quantization_config.{shown(key)}: unknown; only FP8 blocks are read")
        if value not in _ACCEPTED[key]:
            expected = " or ".join(repr(choice) for choice in _ACCEPTED[key])
            raise UserError(f"{where}: key quantization_config.{key}: {shown(value)}, expected {expected}")
    for key in _REQUIRED:
        if key not in settings:
            raise UserError(f"{where}: key quantization_config.{key}: missing, expected {_ACCEPTED[key][0]!r}")
    return True


def scale_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Blocks along rows and columns; the last ones may be ragged."""
    rows, columns = shape
    return math.ceil(rows / BLOCK), math.ceil(columns / BLOCK)


def dequantize(q_RC: Tensor, scale_rc: Tensor, dtype: torch.dtype, start: tuple[int, int] = (0, 0)) -> Tensor:
    """W = q * scale_inv (R, C): the product in float32, rounded once to `dtype`.

    q_RC: (R, C) float8_e4m3fn, a matrix or a part of one.
    scale_rc: float32, bfloat16 or float8_e8m0fnu; one number for every block that `q_RC` touches.
    start: row and column of `q_RC[0, 0]` in the whole matrix; blocks are counted from there.
    """
    rows, columns = (
        slice(offset % BLOCK, offset % BLOCK + size) for offset, size in zip(start, q_RC.shape, strict=True)
    )
    wide_rC = scale_rc.float().repeat_interleave(BLOCK, 1)[:, columns]
    scale_RC = wide_rC.repeat_interleave(BLOCK, 0)[rows]
    return q_RC.float().mul_(scale_RC).to(dtype)


def quantize(weight_RC: Tensor, scale_fmt: str = "float") -> tuple[Tensor, Tensor]:
    """A matrix as e4m3 (R, C) and float32 scales (r, c): each block's largest magnitude becomes 448.

    With `ue8m0` the scale is rounded up to a power of two, so that nothing leaves the range.
    """
    rows, columns = weight_RC.shape
    blocks_r, blocks_c = scale_shape((rows, columns))
    padded_RC = torch.zeros(blocks_r * BLOCK, blocks_c * BLOCK, dtype=torch.float32, device=weight_RC.device)
    padded_RC[:rows, :columns] = weight_RC
    blocks_rRcC = padded_RC.unflatten(1, (blocks_c, BLOCK)).unflatten(0, (blocks_r, BLOCK))
    scale_rc = blocks_rRcC.abs().amax((1, 3)).clamp(min=SMALLEST_AMAX) / LARGEST
    if scale_fmt == "ue8m0":
        # adding all mantissa bits carries into the exponent unless they are zero: exact, log2 and exp2 are not
        scale_rc = (scale_rc.view(torch.int32) + 0x7FFFFF).bitwise_and(0x7F800000).view(torch.float32)
    q_rRcC = (blocks_rRcC / scale_rc[:, None, :, None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return q_rRcC.flatten(2, 3).flatten(0, 1)[:rows, :columns].contiguous(), scale_rc
