"""Both ways of a product give the same, at the sizes where one takes over from the other."""

import pytest
import torch
import torch.nn.functional as F

from distill.sampling.product import FEW_ROWS, product


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [8, 600])
@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_is_that_of_linear(dtype: torch.dtype, channels: int, rows: int, biased: bool) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(channels, 512).to(dtype), torch.randn(rows, 512).to(dtype)
    bias = torch.randn(channels).to(dtype) if biased else None
    got = product(x, weight, bias)
    torch.testing.assert_close(got, F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    assert got.is_contiguous()
    assert x.shape == (rows, 512)
