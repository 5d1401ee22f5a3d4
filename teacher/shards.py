"""What a folder of safetensors holds, before a byte of a tensor is read.

Everything here is written by someone else: the index may name any path, a header may claim
any size. A name is a plain file name, its file lies in the folder (or, in a snapshot of the
hub's cache, in that cache's blobs), headers are small, name a tensor once and describe the
file without gap or overlap. Pickle is never opened. Upstream readers follow paths that leave
the folder and accept a tensor named twice in a header.
"""

import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError, shown
from distill.strict_json import parse_json, read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
LARGEST_INDEX = 64 * 2**20
"""Bytes; DeepSeek-V3's 91,991 names take 9 million."""
LARGEST_HEADER = 8 * 2**20
"""Bytes, room for some 60,000 tensors in one file; published shards have hundreds."""
MOST_DIMENSIONS = 8

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes a number, by the dtype's name in a header."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor on disk."""

    file: Path
    dtype: str
    """Its name in safetensors headers: BF16, F8_E4M3, ..."""
    shape: tuple[int, ...]
    begin: int
    """Offset of its first byte in the data of the file."""

    @property
    def numel(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes it takes on disk."""
        return self.numel * ITEM_BYTES[self.dtype]


def read_shards(folder: Path, only: Collection[str] | None = None) -> dict[str, Stored]:
    """Every tensor of a folder; with `only`, those of the files that hold one of these names.

    Raises UserError naming the file and what is wrong with it.
    """
    index = folder / INDEX
    if not index.is_file():
        return _held({SINGLE: _single(folder)})
    weight_map = _weight_map(index)
    listed = weight_map if only is None else {name: weight_map[name] for name in only if name in weight_map}
    files = {name: confined(folder, name, f"{index}: weight_map") for name in sorted(set(listed.values()))}
    if (folder / SINGLE).exists() and SINGLE not in weight_map.values():
        raise UserError(
            f"{index}: places nothing in {SINGLE}, which other readers would take instead; remove one of them"
        )
    held = _held(files)
    for name, stored in held.items():
        if weight_map.get(name) != stored.file.name:
            raise UserError(f"{stored.file}: tensor {shown(name)}: weight_map of {INDEX} does not place it here")
    for name, file in listed.items():
        if name not in held:
            raise UserError(f"{folder / file}: tensor {shown(name)}: missing; weight_map of {INDEX} places it here")
    return held


def confined(folder: Path, name: str, where: str) -> Path:
    """The file of that name, if it is one and lies where it may. `where` opens the error line."""
    path = folder / name
    if not path.is_file():
        what = "is no file" if path.exists() else "is not in the folder"
        raise UserError(f"{where}: names {shown(name)}, which {what}")
    home = folder.resolve()
    roots = [home]
    if home.parent.name == "snapshots":  # the hub's cache: snapshots/<commit>/x -> blobs/<hash> [-> shared blobs/..]
        roots += [home.parent.parent / "blobs", home.parent.parent.parent / "blobs"]
    if not any(path.resolve().is_relative_to(root) for root in roots):
        raise UserError(f"{where}: {shown(name)} is a link that leaves the folder; copy the file into it")
    return path


def _single(folder: Path) -> Path:
    if not (folder / SINGLE).exists():
        other = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
        hint = f"; {shown(other[0])} is pickle and never opened: convert it to safetensors" if other else ""
        raise UserError(f"{folder}: no weights (expected {SINGLE} or {INDEX}{hint})")
    return confined(folder, SINGLE, str(folder))


def _weight_map(index: Path) -> dict[str, str]:
    read = read_json(index, LARGEST_INDEX)
    weight_map = read.get("weight_map") if isinstance(read, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: key weight_map: {shown(weight_map)}, expected names of tensors and their files")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(
                f"{index}: weight_map: {shown(name)} for {shown(tensor)}, "
                "expected the name of a .safetensors file in this folder"
            )
    return weight_map


def _held(files: dict[str, Path]) -> dict[str, Stored]:
    held: dict[str, Stored] = {}
    for path in files.values():
        for name, stored in read_header(path).items():
            if name in held:
                raise UserError(f"{path}: tensor {shown(name)}: also in {held[name].file.name}")
            held[name] = stored
    return held


def read_header(path: Path) -> dict[str, Stored]:
    """Tensors of one file in the order of their bytes (format: the safetensors README). UserError when it lies."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise UserError(f"{path}: not a safetensors file ({size} bytes; cut off?)")
        (length,) = struct.unpack("<Q", start)
        if length > min(size - 8, LARGEST_HEADER):
            pickled = start[:2] == b"PK" or start[:1] == b"\x80"
            hint = "it begins like pickle, which is never opened" if pickled else "cut off, or no safetensors at all?"
            raise UserError(
                f"{path}: not a whole safetensors file (header of {length:,} bytes, expected at most "
                f"{min(size - 8, LARGEST_HEADER):,}; {hint})"
            )
        header = parse_json(file.read(length), f"{path}: header")
    if not isinstance(header, dict):
        raise UserError(f"{path}: header: expected an object of tensors")
    tensors = [(name, *_entry(path, name, entry)) for name, entry in header.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor[2], tensor[3]))
    _check_layout(path, tensors, size - 8 - length)
    return {name: stored for name, stored, _, _ in tensors}


def _entry(path: Path, name: str, entry: Any) -> tuple[Stored, int, int]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: header: tensor {shown(name)}: {shown(entry)}, expected dtype, shape, data_offsets"
        ) from error
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        known = ", ".join(ITEM_BYTES)
        raise UserError(f"{path}: header: tensor {shown(name)}: dtype {shown(dtype)}, expected one of {known}")
    numbers = [begin, end, *shape] if isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS else [None]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise UserError(
            f"{path}: header: tensor {shown(name)}: {shown(entry)}, expected whole numbers, few and not negative"
        )
    stored = Stored(path, dtype, tuple(shape), begin)
    if stored.bytes != end - begin:
        raise UserError(
            f"{path}: header: tensor {shown(name)}: {end - begin:,} bytes for {dtype} {shown(shape)}, "
            f"expected {shown(stored.bytes)}"
        )
    return stored, begin, end


def _check_layout(path: Path, tensors: list[tuple[str, Stored, int, int]], data_bytes: int) -> None:
    position = 0
    for name, _, begin, end in tensors:
        if end > data_bytes:
            raise UserError(
                f"{path}: tensor {shown(name)}: ends at byte {end:,} of {data_bytes:,}; "
                "the file is cut off or its header wrong"
            )
        if begin != position:
            what = "overlaps the one before it" if begin < position else f"{begin - position:,} bytes before it unused"
            raise UserError(f"{path}: header: tensor {shown(name)}: {what}")
        position = end
    if position != data_bytes:
        raise UserError(f"{path}: {data_bytes - position:,} bytes behind the last tensor belong to none")
