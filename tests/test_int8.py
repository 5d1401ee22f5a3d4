"""Int8 weights: near the exact ones, the same numbers however many rows, and never where nobody asked."""

import pytest
import torch

from distill.sampling.int8 import FEW_ROWS, Int8Map
from students.decoder import KVDecoder
from teacher.decoder import LatentDecoder
from tests.test_decoder import SHAPES, begin
from tests.test_decoder import cache as student_cache
from tests.test_decoder import toy as toy_student
from tests.test_teacher_decoder import cache as teacher_cache
from tests.test_teacher_decoder import make as toy_teacher


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1, 40])
def test_a_product_is_off_by_its_rounding_and_no_more(dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(0)
    weight, x, bias = torch.randn(48, 64).to(dtype), torch.randn(rows, 64).to(dtype), torch.randn(48).to(dtype)
    exact = x.float() @ weight.float().T + bias.float()
    error = float((Int8Map(weight, bias)(x).float() - exact).norm() / exact.norm())
    assert 1e-3 < error < 2e-2


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.zeros(4, 8)
    weight[1] = 3.0
    assert Int8Map(weight)(torch.ones(2, 8)).tolist() == [[0.0, 24.0, 0.0, 0.0]] * 2


def test_a_student_of_int8_weights_is_near_itself_and_not_equal() -> None:
    model = toy_student(SHAPES["qwen2 biases"])
    ids = torch.randint(97, (2, 12))
    found = []
    for weights in ("exact", "int8"):
        decoder = KVDecoder(model, weights)
        found.append(begin(decoder, ids, torch.tensor([12, 7]), student_cache(decoder, 2, 16)))
    assert_near_not_equal(*found)


def test_a_teacher_of_int8_weights_says_the_same_in_prefill_and_steps() -> None:
    """Else a sample would depend on what of its prompt was cached."""
    model = toy_teacher()
    ids = torch.randint(64, (1, 12))
    exact, lossy = LatentDecoder(model), LatentDecoder(model, "int8")
    logits = []
    for decoder in (exact, lossy):
        tables = teacher_cache(decoder, 1, 12)
        logits.append(decoder.prefill(ids, torch.tensor([0]), torch.tensor([12]), tables))
    assert_near_not_equal(*logits)
    tables = teacher_cache(lossy, 1, 12)
    lossy.prefill(ids[:, :5], torch.tensor([0]), torch.tensor([5]), tables)
    stepped = [lossy.step(ids[:, place], torch.tensor([place]), tables) for place in range(5, 12)]
    torch.testing.assert_close(stepped[-1], logits[1], rtol=1e-4, atol=1e-4)


def assert_near_not_equal(exact: torch.Tensor, lossy: torch.Tensor) -> None:
    error = float((lossy - exact).norm() / exact.norm())
    assert 1e-4 < error < 0.1
