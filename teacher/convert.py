"""Convert: a teacher folder in another dtype, FP8 to bfloat16 above all, shard by shard.

Needs the memory of one piece of a tensor, not of a shard. `OUT.partial` is filled: small files,
then the shards, each whole or absent and its hash noted, lineage and config, the index last; then
it is renamed. After a kill at any instant the same command keeps the shards whose noted hash
still holds and writes the others. The values are those of reading the source in that dtype, bit
for bit. Writes no FP8; copies no code, no pickle and no folders.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.checkpoints import CONFIG, LINEAGE, Lineage, read_config, read_lineage
from distill.errors import UserError, shown
from distill.progress import Progress
from distill.records import fingerprint
from distill.runs import RESUME, Report, open_run, sync_folder, write_durably
from distill.strict_json import read_json
from teacher.checkpoint import Opener, Weights, counted, keep_open
from teacher.loader import check_folder, kept_dtype
from teacher.shard_writer import note_sums, staged, verified, write_shard
from teacher.shards import INDEX, SINGLE, confined

TARGETS = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""What a folder can be converted to."""
IN_HEADERS = {torch.bfloat16: "BF16", torch.float32: "F32"}
COPIED = (".json", ".txt", ".model", ".jinja", ".md")
"""Endings of the files beside the weights that are copied (tokenizer, templates, license), and `LICENSE`."""
LARGEST_COPIED = 64 * 2**20
"""Bytes; a tokenizer has up to 20 million."""
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(slots=True)
class Shard:
    """One file to write."""

    tensors: list[str] = field(default_factory=list)
    bytes: int = 0


def convert(
    source: Path, out: Path, *, to: str = "bf16", shard_size: str = "5GB", progress: Progress | None = None
) -> Report:
    """Write the folder `source` into a new folder `out`. Raises UserError naming what is wrong; never overwrites."""
    if to not in TARGETS:
        raise UserError(f"--to {shown(to)}: unknown; there are {', '.join(TARGETS)}")
    limit = parse_size(shard_size)
    _, weights = check_folder(source)
    copied = _small_files(source)
    mark = _mark(source, weights, copied, to, limit)
    if not _finished(out, mark):
        with open_run(out, mark) as opened:
            if opened is None or _finished(out, mark):  # made by another process while this one waited
                raise UserError(f"{out}: is there already; choose another folder")
            for name, path in copied.items():
                _copy(path, opened.out / name)
            _write(opened.out, _plan(weights, TARGETS[to], limit), weights, TARGETS[to], progress)
            _describe(opened.out, out.name, source, to)
            _write_index(opened.out, _plan(weights, TARGETS[to], limit))
            os.rename(opened.out, out)
            sync_folder(out.parent)
    (out / RESUME).unlink()
    files = sorted(out.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files)
    lines = (f"{len(weights.stored):,} tensors, {size / 1e6:,.1f} MB in {len(files)} files: {out}",)
    return Report(counts={"tensors": len(weights.stored), "files": len(files), "bytes": size}, lines=lines)


def parse_size(text: str) -> int:
    """Bytes of `5GB`, `500MB`, `200KB`."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)(KB|MB|GB)", text)
    size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    if size < 1:
        raise UserError(f"--shard-size {shown(text)}: expected a number and {', '.join(UNITS)}, as 5GB")
    return size


def _finished(out: Path, mark: str) -> bool:
    """True when an earlier attempt was killed between its last rename and its end."""
    if not (out.exists() or out.is_symlink()):
        return False
    path = out / RESUME
    if path.is_file() and read_json(path, 2**20).get("fingerprint") == mark:
        return True
    raise UserError(f"{out}: is there already; choose another folder")


def _mark(source: Path, weights: Weights, copied: dict[str, Path], to: str, limit: int) -> str:
    """What a resumed conversion must have in common with the one that was cut off."""
    held = [stored.file for stored in (*weights.stored.values(), *weights.scales.values())]
    files = sorted({source / CONFIG, *held, *copied.values()})
    seen = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return fingerprint(["convert", str(source.resolve()), seen, to, limit])


def _small_files(source: Path) -> dict[str, Path]:
    written = (CONFIG, INDEX, LINEAGE)
    names = [
        path.name
        for path in sorted(source.iterdir())
        if (path.suffix in COPIED or path.name.startswith("LICENSE")) and path.name not in written and path.is_file()
    ]
    files = {name: confined(source, name, str(source)) for name in names if not name.startswith(".")}
    return {name: path for name, path in files.items() if path.stat().st_size <= LARGEST_COPIED}


def _copy(path: Path, to: Path) -> None:
    with to.open("wb") as file:
        file.write(path.read_bytes())
        file.flush()
        os.fsync(file.fileno())


def _plan(weights: Weights, dtype: torch.dtype, limit: int) -> dict[str, Shard]:
    """Tensors by file, in the order they lie in; a new file before one would pass the limit."""
    shards = [Shard()]
    for name in weights.in_order(weights.stored):
        size = weights.stored[name].numel * kept_dtype(name, dtype).itemsize
        if shards[-1].tensors and shards[-1].bytes + size > limit:
            shards.append(Shard())
        shards[-1].tensors.append(name)
        shards[-1].bytes += size
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{at:05}-of-{len(shards):05}.safetensors": shard for at, shard in enumerate(shards, 1)}


def _write(
    partial: Path, shards: dict[str, Shard], weights: Weights, dtype: torch.dtype, progress: Progress | None
) -> None:
    kept = {name: digest for name, digest in verified(partial).items() if name in shards}
    rest = {name: shard for name, shard in shards.items() if name not in kept}
    for name in rest:  # what an attempt left without its hash would take the room of what replaces it
        (partial / name).unlink(missing_ok=True)
        staged(partial / name).unlink(missing_ok=True)
    needed, free = sum(shard.bytes for shard in rest.values()), shutil.disk_usage(partial).free
    if needed > free:
        raise UserError(f"{partial}: {needed / 1e6:,.1f} MB still to write, {free / 1e6:,.1f} MB free")
    opened = keep_open()
    with counted(progress, f"convert {weights.folder.name}", needed) as count:
        for name, shard in rest.items():
            ordered = sorted(shard.tensors, key=lambda tensor: -kept_dtype(tensor, dtype).itemsize)  # keeps alignment
            layout = {}
            for tensor in ordered:
                stored, kind = weights.stored[tensor], kept_dtype(tensor, dtype)
                layout[tensor] = IN_HEADERS[kind], stored.shape, stored.numel * kind.itemsize
            kept[name] = write_shard(partial / name, layout, _pieces(weights, ordered, dtype, opened, count))
            note_sums(partial, kept)


def _pieces(
    weights: Weights, tensors: list[str], dtype: torch.dtype, opened: Opener, count: Callable[[int], None]
) -> Iterator[Tensor]:
    for name in tensors:
        for piece in weights.pieces(name, kept_dtype(name, dtype), opened=opened):
            yield piece
            count(piece.nbytes)


def _describe(partial: Path, name: str, source: Path, to: str) -> None:
    """Lineage, and the config without what says FP8 or names code."""
    parent = read_lineage(source) or Lineage(name=source.resolve().name, stage="published")
    lineage = Lineage(name=name, stage="convert", parent=parent)
    write_durably(partial / LINEAGE, lineage.model_dump_json(indent=2, exclude_none=True))
    config: dict[str, Any] = read_config(source)
    for key in ("quantization_config", "auto_map"):
        config.pop(key, None)
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    config[key] = str(TARGETS[to]).removeprefix("torch.")
    write_durably(partial / CONFIG, json.dumps(config, indent=2) + "\n")


def _write_index(partial: Path, shards: dict[str, Shard]) -> None:
    if len(shards) == 1:
        return
    weight_map = {tensor: name for name, shard in shards.items() for tensor in shard.tensors}
    metadata = {"total_size": sum(shard.bytes for shard in shards.values())}
    write_durably(partial / INDEX, json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2) + "\n")
