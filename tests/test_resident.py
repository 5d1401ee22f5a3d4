"""FP8 weights that stay FP8 multiply as the wide matrix would, bit for bit, in half the memory."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from distill.errors import UserError
from teacher.fp8 import SCALE, dequantize, quantize
from teacher.kernels import reference
from teacher.parallel.joins import Groups
from teacher.parallel.layout import Layout
from teacher.parallel.loading import load_share
from teacher.resident import TILE, Fp8Experts, Fp8Linear, wide_weight
from tests.teacher_folders import WEIGHTS, fp8_folder

DTYPES = [torch.float32, torch.bfloat16]


def linear(rows: int, columns: int, bias: bool = False) -> Fp8Linear:
    torch.manual_seed(rows + columns)
    module = Fp8Linear(columns, rows, bias)
    q, scale = quantize(torch.randn(rows, columns) * columns**-0.5)
    state = {"weight": q, "weight_scale_inv": scale}
    if bias:
        state["bias"] = torch.randn(rows)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(TILE * 2, 256), (TILE + 128, 192), (TILE + 5, 130), (1, 1), (576, 100)])
def test_a_linear_layer_is_its_wide_tiles_multiplied(rows: int, columns: int, dtype: torch.dtype) -> None:
    module = linear(rows, columns, bias=True)
    x = torch.randn(3, 2, columns, dtype=dtype)
    whole = dequantize(module.weight, module.weight_scale_inv, dtype)
    expected = torch.cat([F.linear(x, tile) for tile in whole.split(TILE)], -1).add_(module.bias)
    assert torch.equal(module(x), expected)
    assert torch.equal(wide_weight(module, dtype), whole)
    near = F.linear(x.double(), whole.double(), module.bias.double())
    bound = 1e-6 if dtype == torch.float32 else 1e-2
    assert (module(x).double() - near).abs().max() <= bound * near.abs().max()


def experts(count: int, width: int, inner: int) -> tuple[Fp8Experts, dict[str, torch.Tensor]]:
    """A module loaded by published names, and those tensors."""
    torch.manual_seed(0)
    state = {}
    for expert in range(count):
        for part, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
            q, scale = quantize(torch.randn(shape) * shape[1] ** -0.5)
            state[f"{expert}.{part}_proj.weight"], state[f"{expert}.{part}_proj.weight{SCALE}"] = q, scale
    module = Fp8Experts(count, width, inner)
    module.load_state_dict(dict(state), assign=True)
    return module.requires_grad_(False), state


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 40])
def test_experts_are_their_wide_selves_multiplied(tokens: int, dtype: torch.dtype) -> None:
    module, state = experts(5, 130, 200)
    x_ND = torch.randn(tokens, 130, dtype=dtype)
    weights_NK = torch.rand(tokens, 2)
    chosen_NK = torch.rand(tokens, 4).topk(2).indices  # the last expert is chosen by none

    def wide(expert: int, part: str) -> torch.Tensor:
        name = f"{expert}.{part}_proj.weight"
        return dequantize(state[name], state[name + SCALE], dtype)

    gate_up_EGD = torch.stack([torch.cat((wide(e, "gate"), wide(e, "up"))) for e in range(5)])
    down_EDF = torch.stack([wide(e, "down") for e in range(5)])
    expected = torch.zeros_like(x_ND)
    for expert in chosen_NK.unique().tolist():
        token, choice = (chosen_NK == expert).nonzero(as_tuple=True)
        inner = F.silu(F.linear(x_ND[token], wide(expert, "gate"))) * F.linear(x_ND[token], wide(expert, "up"))
        spoken = F.linear(inner, down_EDF[expert]) * weights_NK[token, choice, None].to(dtype)
        expected.index_add_(0, token, spoken)
    assert torch.equal(module(x_ND, weights_NK, chosen_NK), expected)
    definition = reference.grouped_mlp(x_ND, weights_NK, chosen_NK, gate_up_EGD, down_EDF)
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    assert (module(x_ND, weights_NK, chosen_NK) - definition).abs().max() <= bound * definition.abs().max()


@pytest.mark.parametrize("odd", ["an embedding", "a router", "a head", "one wide expert"])
def test_fp8_where_nothing_multiplies_it_is_made_wide(tmp_path: Path, odd: str) -> None:
    """An FP8 router went into the model without its scales and chose other experts."""
    folder = fp8_folder(tmp_path / "fp8")
    tensors = load_file(folder / WEIGHTS)
    name = {
        "an embedding": "model.embed_tokens.weight",
        "a router": "model.layers.1.mlp.gate.weight",
        "a head": "lm_head.weight",
        "one wide expert": "model.layers.1.mlp.experts.1.up_proj.weight",
    }[odd]
    if odd == "one wide expert":
        tensors[name] = tensors[name].bfloat16()
        del tensors[name + SCALE]
    else:
        tensors[name], tensors[name + SCALE] = quantize(3 * tensors[name].float())
    save_file(tensors, folder / WEIGHTS)
    wide, kept = (load_share(folder, Groups(Layout()), dtype=dtype) for dtype in ("bfloat16", "fp8"))
    assert any(isinstance(module, Fp8Linear) for module in kept.modules())
    ids = torch.arange(24).view(2, 12)
    expected = wide(input_ids=ids).logits
    assert (kept(input_ids=ids).logits - expected).abs().max() <= 0.05 * expected.abs().max()


def test_a_scale_that_overflows_is_named_though_nothing_is_made_wide_yet(tmp_path: Path) -> None:
    folder = fp8_folder(tmp_path / "fp8")
    tensors = load_file(folder / WEIGHTS)
    name = "model.layers.1.mlp.experts.1.up_proj.weight"
    tensors[name + SCALE][0, 0] = 3e38
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError, match=f"{name}: not finite, or not when it is made wide"):
        load_share(folder, Groups(Layout()), dtype="fp8")


def test_resident_weights_take_half_the_bytes_of_bfloat16() -> None:
    module, _ = experts(3, 256, 384)
    kept = sum(weight.nbytes for weight in module.parameters())
    wide = 2 * sum(weight.numel() for name, weight in module.named_parameters() if not name.endswith(SCALE))
    assert kept / wide == pytest.approx(0.5 * (1 + 4 / 128**2), rel=1e-6)


def test_only_a_tile_is_ever_wide() -> None:
    """The largest tensor a call allocates is a tile, not the matrix."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
            result = function(*arguments, **(keywords or {}))
            if isinstance(result, torch.Tensor) and result.dtype != torch.float8_e4m3fn:
                Largest.bytes = max(Largest.bytes, result.untyped_storage().nbytes())
            return result

    module = linear(4 * TILE, 256)
    with Largest():
        module(torch.randn(2, 256, dtype=torch.bfloat16))
    assert 0 < Largest.bytes <= 4 * TILE * 256  # one tile in float32, while it is scaled
