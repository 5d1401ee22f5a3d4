"""Teacher folders read and named as published: one tensor an expert on disk, two 3-D tensors in memory.

Tensors are memory-mapped, taken piece by piece in the order of the files and copied straight
into the tensors they are for, wherever those are; a process that wants only its rows or
experts touches only their bytes. FP8 blocks are made wide on the way. What is missing, left
over, of another shape or not finite is named. `teacher.shards` decides which files are opened.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distill.checkpoints import CONFIG, read_config
from distill.errors import UserError, shown
from distill.progress import Progress
from teacher.fp8 import BLOCK, SCALE, check_quantization, dequantize, scale_shape
from teacher.shards import ITEM_BYTES, Stored, read_shards

NAMED = 5
"""Tensors named in one error line before the rest is only counted."""
PIECE = 2 * 2**20
"""Numbers taken at a time; making FP8 wide holds two copies in float32, 16 MB beside the model."""
MEGABYTE = 10**6
WIDE = ("F64", "F32", "BF16", "F16")
"""Dtypes of tensors that are read as they are."""
SCALES = ("F32", "BF16", "F8_E8M0")

Part = tuple[slice, ...]
"""What to read of a tensor: a plain range (no step) for each leading dimension; () is all of it."""

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


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a folder, known by their headers; their bytes are read by `pieces` alone."""

    folder: Path
    stored: Mapping[str, Stored]
    scales: Mapping[str, Stored]
    """By the name of the FP8 tensor they belong to."""

    def expect(self, shapes: Mapping[str, tuple[int, ...]], spare: Callable[[str], bool] = lambda name: False) -> None:
        """Raise UserError unless exactly these tensors are there; those with `spare` names may be there too."""
        missing = [name for name in shapes if name not in self.stored]
        extra = [name for name in self.stored if name not in shapes and not spare(name)]
        if missing or extra:
            told = [f"missing {_some(missing)}"] * bool(missing) + [f"unexpected {_some(extra)}"] * bool(extra)
            raise UserError(f"{self.folder}: tensors do not match {self.folder.name}/{CONFIG}: {'; '.join(told)}")
        for name, shape in shapes.items():
            _same_shape(name, self.stored[name], self.stored[name].shape, shape)

    def read_into(
        self, targets: Mapping[str, Tensor], parts: Mapping[str, Part] | None = None, progress: Progress | None = None
    ) -> None:
        """Fill every target, whatever its dtype and device, with the tensor of its name, or the part of it in `parts`.

        Raises UserError for a tensor of another shape, and for one that is not finite in the target's dtype.
        """
        parts = parts or {}
        for name, target in targets.items():
            shape = tuple(stop - start for start, stop in _spans(name, self.stored[name], parts.get(name, ())))
            _same_shape(name, self.stored[name], shape, tuple(target.shape))
        total = sum(target.numel() * ITEM_BYTES[self.stored[name].dtype] for name, target in targets.items())
        opened = keep_open()
        with counted(progress, f"read {self.folder.name}", total) as count:
            for name in self.in_order(targets):
                target = targets[name]
                rows = target if target.dim() else target[None]
                for piece in self.pieces(name, target.dtype, parts.get(name, ()), target.device, opened):
                    rows[: len(piece)].copy_(piece)
                    rows = rows[len(piece) :]
                    count(piece.numel() * ITEM_BYTES[self.stored[name].dtype])

    def in_order(self, names: Iterable[str]) -> list[str]:
        """These names in the order of their bytes, file by file."""
        return sorted(names, key=lambda name: (self.stored[name].file.name, self.stored[name].begin))

    def pieces(
        self,
        name: str,
        dtype: torch.dtype,
        part: Part = (),
        device: torch.device | str = "cpu",
        opened: "Opener | None" = None,
    ) -> Iterator[Tensor]:
        """A tensor, or a part of it, as runs of whole rows in `dtype`; a scalar as one row. Raises as `read_into`.

        A piece that needs no conversion is the mapped file itself: valid until the next one, never written to.
        """
        stored, opened = self.stored[name], opened or keep_open()
        (start, stop), *rest = _spans(name, stored, part) or [(0, 1)]
        step = max(1, PIECE // max(1, math.prod(end - begin for begin, end in rest)))
        for row in range(start, stop, step):
            spans = [(row, min(row + step, stop)), *rest]
            piece = self.as_stored(name, _ranges(spans[: len(stored.shape)]), opened).to(device)
            if name in self.scales:
                blocks = [(begin // BLOCK, math.ceil(end / BLOCK)) for begin, end in spans]
                scale_rc = self.as_stored(name + SCALE, _ranges(blocks), opened).to(device)
                piece = dequantize(piece, scale_rc, dtype, (spans[0][0], spans[1][0]))
            piece = piece.to(dtype)
            _check_finite(stored, name, piece)
            yield piece if stored.shape else piece[None]

    def as_stored(self, name: str, part: Part = (), opened: "Opener | None" = None) -> Tensor:
        """A weight or a scale (its weight's name and `_scale_inv`), or a part of it, as it lies in the mapped file.

        A scale is checked to be finite, a weight is not: `pieces` checks what it makes of it.
        """
        scale = self.scales.get(name.removesuffix(SCALE)) if name.endswith(SCALE) else None
        stored = scale or self.stored[name]
        file = (opened or keep_open())(stored.file)
        ranges = _ranges(_spans(name, stored, part))
        tensor: Tensor = file.get_slice(name)[ranges] if ranges else file.get_tensor(name)
        if scale is not None:
            _check_finite(scale, name, tensor.float())
        return tensor


def open_weights(folder: Path, only: Collection[str] | None = None) -> Weights:
    """What a folder holds; with `only`, these tensors alone, and only their files are looked at.

    Raises UserError for files that lie, unreadable dtypes, FP8 without its scale, a name of `only` that is not there.
    """
    where = str(folder / CONFIG)
    quantized = check_quantization(read_config(folder).get("quantization_config"), where)
    held = read_shards(folder, None if only is None else [*only, *(name + SCALE for name in only)])
    names = held if only is None else only
    missing = [name for name in names if name not in held]
    if missing:
        raise UserError(f"{folder}: missing {_some(missing)}")
    scales = {name: _scale(name, held) for name in names if held[name].dtype == "F8_E4M3"}
    if scales and not quantized:
        raise UserError(f"{where}: key quantization_config: missing, though {_some(list(scales))} is FP8")
    taken = {name + SCALE for name in scales}
    stored = {name: held[name] for name in names if name not in taken}
    for name, tensor in stored.items():
        if name not in scales and tensor.dtype not in WIDE:
            raise UserError(
                f"{tensor.file}: tensor {shown(name)}: dtype {tensor.dtype}, expected {', '.join(WIDE)} or F8_E4M3"
            )
    return Weights(folder, stored, scales)


def read_tensors(
    folder: Path,
    wanted: Mapping[str, Part],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """These tensors, or these parts of them, in `dtype` on `device`; no other byte is read.

    `wanted` maps published names to ranges: {"lm_head.weight": (slice(0, 64),), "model.norm.weight": ()}.
    FP8 parts may begin and end inside a block. Raises UserError as `open_weights` and `Weights.read_into` do.
    """
    weights = open_weights(folder, wanted)
    targets = {}
    for name, part in wanted.items():
        shape = [stop - start for start, stop in _spans(name, weights.stored[name], part)]
        targets[name] = torch.empty(shape, dtype=dtype, device=device)
    weights.read_into(targets, wanted, progress)
    return targets


Opener = Callable[[Path], Any]


def keep_open() -> Opener:
    """Opens files, each once until a third is asked for: a tensor's, and its scale's where that lies elsewhere."""
    return lru_cache(maxsize=2)(_open)


@contextmanager
def counted(progress: Progress | None, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of megabytes; call what is yielded with bytes."""
    with (progress or Progress("quiet")).task(label, math.ceil(total / MEGABYTE), "MB") as task:
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            task.advance((math.ceil(done / MEGABYTE) if done == total else done // MEGABYTE) - task.done)

        yield count


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from error


def _ranges(spans: list[tuple[int, int]]) -> Part:
    return tuple(slice(start, stop) for start, stop in spans)


def _spans(name: str, stored: Stored, part: Part) -> list[tuple[int, int]]:
    """First and past-the-last index along every dimension."""
    if len(part) > len(stored.shape):
        raise UserError(f"{stored.file}: tensor {shown(name)}: {len(part)} ranges for shape {stored.shape}")
    spans = [(0, size) for size in stored.shape]
    for dim, wanted in enumerate(part):
        start, stop = wanted.start or 0, stored.shape[dim] if wanted.stop is None else wanted.stop
        if wanted.step not in (None, 1) or not 0 <= start <= stop <= stored.shape[dim]:
            raise UserError(
                f"{stored.file}: tensor {shown(name)}: range {start}:{stop} of dimension {dim}, shape {stored.shape}"
            )
        spans[dim] = (start, stop)
    return spans


def _scale(name: str, held: Mapping[str, Stored]) -> Stored:
    weight, scale = held[name], held.get(name + SCALE)
    if len(weight.shape) != 2:
        raise UserError(f"{weight.file}: tensor {shown(name)}: FP8 of shape {weight.shape}, expected a matrix")
    if scale is None:
        raise UserError(f"{weight.file}: tensor {shown(name)}: FP8 without its scale, missing {shown(name + SCALE)}")
    if scale.dtype not in SCALES:
        raise UserError(
            f"{scale.file}: tensor {shown(name + SCALE)}: dtype {scale.dtype}, expected {', '.join(SCALES)}"
        )
    _same_shape(name + SCALE, scale, scale.shape, scale_shape((weight.shape[0], weight.shape[1])))
    return scale


def _same_shape(name: str, stored: Stored, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise UserError(f"{stored.file}: tensor {shown(name)}: shape {shape}, expected {expected}")


def _check_finite(stored: Stored, name: str, tensor: Tensor) -> None:
    if not tensor.numel():
        return
    low, high = tensor.aminmax()  # NaN if any is; makes no copy, 30 times as fast as isfinite().all()
    if not (low.isfinite() and high.isfinite()):
        broken = int((~tensor.isfinite()).sum())
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            f"{stored.file}: tensor {shown(name)}: not finite: {broken:,} of {tensor.numel():,} numbers read as {kind}"
        )


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(shown(name) for name in sorted(names)[:NAMED]) + rest
