"""Teacher folders on disk: published tensor names, safetensors only, nothing trusted.

In memory a layer's experts are two 3-D tensors; on disk each expert has its own three,
as DeepSeek publishes them, so that a folder opens in transformers, vLLM and SGLang.
Reads what it wrote bit for bit. Pickle is never opened, no path of an index leaves the
folder, and a tensor that is missing, left over, of another shape or not finite is named.
Does not read FP8 block-scaled weights.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distill.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
NAMED = 5
"""Tensors named in one error line before the rest is only counted."""

_FUSED = re.compile(r"(?P<prefix>.*mlp\.experts\.)(?P<part>gate_up_proj|down_proj)")


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One tensor an expert, as published: views of the 3-D tensors, not copies."""
    published: dict[str, Tensor] = {}
    for name, tensor in state.items():
        fused = _FUSED.fullmatch(name)
        if fused is None:
            published[name] = tensor
            continue
        prefix = fused["prefix"]
        for expert, matrix in enumerate(tensor):
            if fused["part"] == "down_proj":
                published[f"{prefix}{expert}.down_proj.weight"] = matrix
            else:
                gate, up = matrix.chunk(2)
                published[f"{prefix}{expert}.gate_proj.weight"] = gate
                published[f"{prefix}{expert}.up_proj.weight"] = up
    return published


def stack_experts(state: dict[str, Tensor], prefix: str, experts: int) -> None:
    """Replace `prefix`'s published expert tensors in `state` by the two 3-D ones, where all are there."""
    names = [[f"{prefix}{expert}.{part}_proj.weight" for part in ("gate", "up", "down")] for expert in range(experts)]
    if not all(name in state for expert in names for name in expert):
        return
    taken = [[state.pop(name) for name in expert] for expert in names]
    state[f"{prefix}gate_up_proj"] = torch.stack([torch.cat((gate, up)) for gate, up, _ in taken])
    state[f"{prefix}down_proj"] = torch.stack([down for _, _, down in taken])


def read_tensors(
    folder: Path, expected: Mapping[str, tuple[int, ...]], spare: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Tensor]:
    """Every tensor of `expected` (published name -> shape), those of `spare` that are there, and no other.

    Raises UserError naming what is wrong.
    """
    files = _weight_files(folder)
    found: dict[str, Tensor] = {}
    for path in files:
        for name, tensor in _tensors(path):
            if name in found:
                raise UserError(f"{path}: tensor {name}: also in another file of the folder")
            found[name] = tensor
    _compare(folder, found, {**expected, **{name: shape for name, shape in (spare or {}).items() if name in found}})
    broken = [name for name, tensor in found.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise UserError(f"{folder}: not finite: {_some(broken)}")
    return found


def tensor_names(folder: Path) -> set[str]:
    """Names of the tensors a folder holds, from the headers of its files."""
    names: set[str] = set()
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                names.update(file.keys())
        except SafetensorError as error:
            raise UserError(f"{path}: not a safetensors file ({error})") from error
    return names


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        names = _indexed(index)
    elif (folder / SINGLE).is_file():
        names = [SINGLE]
    else:
        other = [path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        hint = f"; {other[0]} is pickle and never opened" if other else ""
        raise UserError(f"{folder}: no weights (expected {SINGLE} or {INDEX}{hint})")
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{index}: weight_map names {name}, which is not in the folder")
    return [folder / name for name in names]


def _indexed(index: Path) -> list[str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not a weight index ({error}); expected an object with weight_map") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{index}: weight_map: {name!r}, expected the name of a .safetensors file in this folder")
    return names


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error


def _compare(folder: Path, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if missing or extra:
        told = [f"missing {_some(missing)}"] * bool(missing) + [f"unexpected {_some(extra)}"] * bool(extra)
        raise UserError(f"{folder}: tensors do not match {folder.name}/config.json: {'; '.join(told)}")
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise UserError(f"{folder}: tensor {name}: shape {tuple(found[name].shape)}, expected {shape}")


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(sorted(names)[:NAMED]) + rest
