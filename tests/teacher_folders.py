"""Toy teacher folders, in bfloat16, float32 and FP8 as published."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from teacher.config import preset
from teacher.fp8 import quantize
from teacher.model import DeepseekForCausalLM

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
RAGGED = {
    "num_hidden_layers": 2, "hidden_size": 160, "q_lora_rank": 130, "kv_lora_rank": 96, "moe_intermediate_size": 136,
    "intermediate_size": 200, "n_routed_experts": 4,
}  # fmt: skip
"""No width is a multiple of 128, most are above it."""


def make(**keys) -> DeepseekForCausalLM:
    """A fresh model with correction biases of both signs."""
    torch.manual_seed(0)
    model = DeepseekForCausalLM(preset("mini", **{"num_hidden_layers": 2, **keys}))
    for name, buffer in model.named_buffers():
        if name.endswith("correction_bias"):
            buffer.normal_()
    return model


def is_quantized(name: str) -> bool:
    """Whether DeepSeek publishes this tensor in FP8: projections, not embedding, head, norms and router."""
    return name.endswith("_proj.weight") or "_proj_with_mqa.weight" in name


def fp8_folder(folder: Path, scale_fmt: str = "float", packed: bool = False, **keys) -> Path:
    """A folder as DeepSeek-V3 (or V3.1: ue8m0) publishes it; `packed` stores powers of two as e8m0."""
    folder.mkdir(exist_ok=True)
    make(**{**RAGGED, **keys}).bfloat16().save_pretrained(folder)
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        if not is_quantized(name):
            tensors[name] = tensor.float() if name.endswith("correction_bias") else tensor
            continue
        tensors[name], scale = quantize(tensor.float() * torch.rand(()).exp(), scale_fmt)
        tensors[f"{name}_scale_inv"] = scale.to(torch.float8_e8m0fnu) if packed else scale
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    extra = {} if scale_fmt == "float" else {"scale_fmt": scale_fmt}
    edit_config(folder, quantization_config={**FP8, **extra})
    return folder


def by_hand(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The definition, block by block: the tensors a dequantized folder holds."""
    wide = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        scale = tensors.get(f"{name}_scale_inv")
        if scale is None:
            wide[name] = tensor if name.endswith("correction_bias") else tensor.to(dtype)
            continue
        blocks = tensor.float()
        for row in range(scale.shape[0]):
            for column in range(scale.shape[1]):
                block = blocks[row * 128 : row * 128 + 128, column * 128 : column * 128 + 128]
                block.copy_(block * float(scale[row, column].float()))
        wide[name] = blocks.to(dtype)
    return wide


def edit_config(folder: Path, **changes) -> None:
    """Replace keys of config.json; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def split(folder: Path, place) -> None:
    """Spread the one weight file over several: `place(name)` gives the number of each tensor's file."""
    tensors = load_file(folder / WEIGHTS)
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        files.setdefault(f"model-{place(name):05}.safetensors", {})[name] = tensor
    for file, held in files.items():
        save_file(held, folder / file)
    (folder / WEIGHTS).unlink()
    weight_map = {name: file for file, held in files.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
