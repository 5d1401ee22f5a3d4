"""Write safetensors files piece by piece, durably, and note their hashes.

A file is written aside, synced and renamed, so that a name means a whole file; its SHA-256 is
noted after that in the format of `sha256sum`. Tensors lie in the order given, without gaps
(format: the safetensors README), so larger dtypes must come first to stay aligned.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor, uint8

from distill.runs import sync_folder, write_durably

SUMS = "SHA256SUMS"
"""In the folder: `sha256sum -c SHA256SUMS` checks it."""

_SUM = re.compile(r"([0-9a-f]{64})  ([^/\n]+)\n")


def write_shard(path: Path, layout: Mapping[str, tuple[str, tuple[int, ...], int]], pieces: Iterable[Tensor]) -> str:
    """Write a file of the tensors in `layout` (name -> dtype, shape, bytes), in that order; its SHA-256.

    `pieces` are runs of them, contiguous, on the CPU. Raises ValueError when they are more or fewer bytes.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape, size) in layout.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    written = 0
    digest = hashlib.sha256()
    with staged(path).open("wb") as file:
        for block in _blocks(struct.pack("<Q", len(text)) + text, pieces):
            file.write(block)
            digest.update(block)
            written += len(block)
        file.flush()
        os.fsync(file.fileno())
    if written != 8 + len(text) + position:
        raise ValueError(f"{path}: {written} bytes written, {8 + len(text) + position} announced")
    os.replace(staged(path), path)
    return digest.hexdigest()


def staged(path: Path) -> Path:
    """Where a file is written until it is whole."""
    return path.with_name(path.name + ".tmp")


def note_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Write down the hashes of finished files; the folder's names are on disk before that."""
    sync_folder(folder)
    write_durably(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def verified(folder: Path) -> dict[str, str]:
    """The files whose content still has the hash noted for it."""
    path = folder / SUMS
    noted = _SUM.findall(path.read_text(encoding="utf-8")) if path.is_file() else []
    return {name: digest for digest, name in noted if (folder / name).is_file() and _hash(folder / name) == digest}


def _blocks(start: bytes, pieces: Iterable[Tensor]) -> Iterator[bytes | memoryview]:
    yield start
    for piece in pieces:
        if piece.numel():
            yield piece.reshape(-1).view(uint8).numpy().data


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
