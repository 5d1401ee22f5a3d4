"""FP8 blocks against a definition written out number by number, and settings that are not understood."""

import math

import numpy as np
import pytest
import torch

from distill.errors import UserError
from teacher.fp8 import BLOCK, check_quantization, dequantize, quantize, scale_shape
from tests.teacher_folders import FP8


def e4m3(code: int) -> float:
    """The number an 8-bit code stands for (arXiv 2209.05433, table 1): no infinity, one NaN of each sign."""
    sign, exponent, mantissa = (-1.0 if code & 0x80 else 1.0), (code >> 3) & 0xF, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    return sign * (mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def one_by_one(q_RC, scale_rc, dtype):
    """Every element by itself, in numpy's float32."""
    codes, scales = q_RC.view(torch.uint8).numpy(), scale_rc.float().numpy()
    wide = np.empty(codes.shape, dtype=np.float32)
    for row, column in np.ndindex(*codes.shape):
        wide[row, column] = np.float32(e4m3(int(codes[row, column]))) * scales[row // 128, column // 128]
    return torch.from_numpy(wide).to(dtype)


SHAPES = [(1, 1), (1, 300), (300, 1), (127, 129), (128, 128), (129, 127), (256, 130)]


def random_blocks(shape, kind=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    codes = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    scales = torch.rand(scale_shape(shape), generator=generator).exp() / 100
    if kind == torch.float8_e8m0fnu:
        scales = torch.randint(100, 140, scale_shape(shape), generator=generator, dtype=torch.uint8).view(kind)
    return codes.view(torch.float8_e4m3fn), scales if kind == torch.float8_e8m0fnu else scales.to(kind)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu], ids=str)
def test_dequantized_is_each_number_times_its_blocks_scale_bit_for_bit(shape, kind):
    q, scale = random_blocks(shape, kind)
    for dtype in (torch.float32, torch.bfloat16):
        wide = dequantize(q, scale, dtype)
        assert wide.dtype == dtype
        assert torch.equal(wide, one_by_one(q, scale, dtype))


def test_every_code_means_what_the_format_says():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)[None]
    wide = dequantize(codes, torch.ones(1, 2), torch.float32)[0]
    torch.testing.assert_close(wide, torch.tensor([e4m3(code) for code in range(256)]), rtol=0, atol=0, equal_nan=True)


def test_every_power_of_two_of_e8m0_is_exact():
    for code in range(255):
        scale = torch.tensor([[code]], dtype=torch.uint8).view(torch.float8_e8m0fnu)
        assert dequantize(torch.ones(1, 1).to(torch.float8_e4m3fn), scale, torch.float64).item() == 2.0 ** (code - 127)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [((0, 1), (0, 1)), ((5, 200), (100, 131)), ((127, 129), (0, 300)), ((128, 256), (256, 300)), ((299, 300), (7, 8))],
    ids=str,
)
def test_a_part_is_the_part_of_the_whole_wherever_it_begins(rows, columns):
    q, scale = random_blocks((300, 300))
    whole = dequantize(q, scale, torch.bfloat16)
    (top, bottom), (left, right) = rows, columns
    blocks = scale[top // BLOCK : math.ceil(bottom / BLOCK), left // BLOCK : math.ceil(right / BLOCK)]
    part = dequantize(q[top:bottom, left:right], blocks, torch.bfloat16, (top, left))
    assert torch.equal(part, whole[top:bottom, left:right])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale_fmt", ["float", "ue8m0"])
def test_quantizing_uses_the_whole_range_of_each_block_and_no_more(shape, scale_fmt):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3
    q, scale = quantize(weight, scale_fmt)
    assert q.dtype == torch.float8_e4m3fn
    assert scale.shape == scale_shape(shape)
    for row, column in np.ndindex(*scale.shape):
        block = (slice(row * 128, row * 128 + 128), slice(column * 128, column * 128 + 128))
        amax = weight[block].abs().max()
        if scale_fmt == "float":
            assert scale[row, column] == amax / 448
            assert q[block].float().abs().max() == 448
        else:
            assert math.frexp(scale[row, column].item())[0] == 0.5
            assert amax / 448 <= scale[row, column] < 2 * amax / 448
        # torch's own cast is the reference for rounding
        assert torch.equal(q[block].float(), (weight[block] / scale[row, column]).to(torch.float8_e4m3fn).float())


def test_quantizing_what_was_quantized_changes_nothing():
    q, scale = quantize(torch.randn(200, 140, generator=torch.Generator().manual_seed(2)), "ue8m0")
    again, same = quantize(dequantize(q, scale, torch.float32), "ue8m0")
    assert torch.equal(scale, same)
    assert torch.equal(q.float(), again.float())


def test_a_block_of_zeros_stays_zero():
    q, scale = quantize(torch.zeros(3, 200))
    assert scale.isfinite().all()
    assert not dequantize(q, scale, torch.float32).any()


@pytest.mark.parametrize(
    "settings",
    [FP8, {**FP8, "scale_fmt": "ue8m0"}, {**FP8, "modules_to_not_convert": ["lm_head"], "dequantize": False}],
    ids=["V3", "V3.1", "as transformers writes it"],
)
def test_published_settings_are_understood(settings):
    assert check_quantization(settings, "config.json")


def test_no_settings_mean_no_blocks():
    assert not check_quantization(None, "config.json")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**FP8, "quant_method": "awq"}, "quantization_config.quant_method: awq, expected 'fp8'"),
        ({**FP8, "fmt": "e5m2"}, "quantization_config.fmt: e5m2, expected 'e4m3'"),
        ({**FP8, "weight_block_size": [64, 128]}, r"weight_block_size: \[64, 128\], expected \[128, 128\]"),
        ({**FP8, "weight_block_size": None}, "weight_block_size: None"),
        ({**FP8, "activation_scheme": "static"}, "activation_scheme: static"),
        ({**FP8, "scale_fmt": "e5"}, "scale_fmt: e5, expected 'float' or 'ue8m0'"),
        ({**FP8, "bits": 4}, "quantization_config.bits: unknown"),
        ({"fmt": "e4m3", "weight_block_size": [128, 128]}, "quant_method: missing"),
        ({"quant_method": "fp8"}, "weight_block_size: missing"),
        ("fp8", "quantization_config: fp8, expected an object"),
        ([], r"quantization_config: \[\], expected an object"),
    ],
    ids=str,
)
def test_other_settings_are_refused_by_key(settings, message):
    with pytest.raises(UserError, match=f"^config.json: key .*{message}"):
        check_quantization(settings, "config.json")
