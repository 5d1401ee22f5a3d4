"""The Triton feed-forward against its definition in float64, at shapes that break careless kernels."""

import pytest
import torch

from teacher.kernels import grouped_mlp as kernel
from teacher.kernels import reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make(tokens: int, width: int, inner: int, experts: int, choices: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=generator)
    weights = torch.rand(tokens, choices, generator=generator) * 2.5
    chosen = torch.rand(tokens, experts, generator=generator).topk(choices).indices
    gate_up = torch.randn(experts, 2 * inner, width, generator=generator) * width**-0.5
    down = torch.randn(experts, width, inner, generator=generator) * inner**-0.5
    cast = [tensor.to(DEVICE, dtype) for tensor in (x, gate_up, down)]
    return cast[0], weights.to(DEVICE), chosen.to(DEVICE), cast[1], cast[2]


def in_float64(inputs):
    return [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]


def assert_as_exact_as_pytorch(inputs) -> None:
    """At most twice the error that plain PyTorch makes in the same dtype (Flash-Attention's rule)."""
    exact = reference.grouped_mlp(*in_float64(inputs))
    plain_error = (reference.grouped_mlp(*inputs).double() - exact).abs().max()
    kernel_error = (kernel.grouped_mlp(*inputs).double() - exact).abs().max()
    assert kernel_error <= 2 * plain_error + 1e-12


SHAPES = {
    "one token": (1, 64, 32, 8, 2),
    "one token, one choice, two experts": (1, 16, 16, 2, 1),
    "no power of two anywhere": (37, 49, 35, 5, 3),
    "width below the smallest tile": (9, 5, 3, 4, 2),
    "more rows than a tile": (150, 64, 48, 2, 2),
    "every expert chosen": (12, 32, 16, 4, 4),
    "inner dimension over several steps": (20, 300, 260, 3, 2),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_kernel_is_as_exact_as_pytorch(shape, dtype) -> None:
    assert_as_exact_as_pytorch(make(*shape, dtype))


def test_float16_is_as_exact_as_pytorch() -> None:
    assert_as_exact_as_pytorch(make(33, 48, 40, 4, 2, torch.float16))


def test_all_tokens_on_one_expert() -> None:
    x, weights, chosen, gate_up, down = make(70, 32, 24, 6, 1, torch.float32)
    for expert in (0, 5):
        assert_as_exact_as_pytorch((x, weights, torch.full_like(chosen, expert), gate_up, down))


def test_most_experts_empty() -> None:
    x, weights, chosen, gate_up, down = make(40, 32, 24, 64, 2, torch.float32)
    assert_as_exact_as_pytorch((x, weights, chosen % 4 * 16 + 3, gate_up, down))


def test_an_empty_expert_between_two_full_ones_shifts_no_rows() -> None:
    x, weights, chosen, gate_up, down = make(40, 32, 24, 3, 1, torch.float32)
    assert_as_exact_as_pytorch((x, weights, torch.where(chosen == 1, 2, chosen), gate_up, down))


def test_no_tokens_at_all_gives_an_empty_result() -> None:
    x, weights, chosen, gate_up, down = make(1, 32, 16, 4, 2, torch.float32)
    assert kernel.grouped_mlp(x[:0], weights[:0], chosen[:0], gate_up, down).shape == (0, 32)


def test_a_repeat_gives_the_same_bits() -> None:
    inputs = make(50, 32, 24, 4, 3, torch.float32)
    assert torch.equal(kernel.grouped_mlp(*inputs), kernel.grouped_mlp(*inputs))


def test_non_contiguous_inputs_are_read_in_the_right_order() -> None:
    x, weights, chosen, gate_up, down = make(24, 32, 16, 4, 2, torch.float32)
    strided = (x.t().contiguous().t(), weights, chosen, gate_up.mT.contiguous().mT, down.mT.contiguous().mT)
    torch.testing.assert_close(kernel.grouped_mlp(*strided), kernel.grouped_mlp(x, weights, chosen, gate_up, down))


def test_gradients_reach_tokens_routing_and_both_weights() -> None:
    inputs = make(15, 32, 16, 4, 2, torch.float32)
    found = []
    for function, given in ((reference.grouped_mlp, in_float64(inputs)), (kernel.grouped_mlp, inputs)):
        leaves = [t.clone().requires_grad_() if t.is_floating_point() else t for t in given]
        function(*leaves).square().sum().backward()
        found.append([leaf.grad for leaf in leaves if leaf.grad is not None])
    assert len(found[1]) == 4
    for exact, kernels in zip(*found, strict=True):
        torch.testing.assert_close(kernels.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [16, 64])
def test_tiles_cover_every_sorted_row_once_and_stay_within_one_expert(rows) -> None:
    chosen = torch.tensor([0] * 70 + [2] * 1 + [3] * 64, device=DEVICE)[:, None]
    tiles, tile_expert, tile_row, end = kernel._tiles(chosen, 5, rows)
    covered: list[int] = []
    for tile in range(tiles):
        expert = int(tile_expert[tile])
        if expert < 5:
            covered += range(int(tile_row[tile]), min(int(tile_row[tile]) + rows, int(end[expert])))
    assert covered == list(range(135))
