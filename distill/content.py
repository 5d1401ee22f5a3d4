"""Content: what a file or a folder holds, as 16 hex digits."""

import hashlib
import time
from functools import lru_cache
from pathlib import Path

from distill.errors import UserError
from distill.records import fingerprint

SETTLED = 2 * 10**9
"""Nanoseconds after which a file's times tell whether it changed: coarser clocks than this are not in use."""
INDEX = ".index.sqlite"
"""A cache that `distill traces` keeps in run folders; it is nobody's content."""


def file_fingerprint(path: Path) -> str:
    """Content hash of a file, or of every file of a folder, caches aside, with its relative name.

    A file is read once a process as long as nothing touches it. One touched in the last seconds is read anew: a
    change within the same tick of the file system's clock would leave no other trace.
    """
    if path.is_file():
        state = path.stat()
        touched = max(state.st_mtime_ns, state.st_ctime_ns)
        if time.time_ns() - touched < SETTLED:
            return _content_hash(path)
        return _content_hash_once(path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if path.is_dir():
        files = sorted(found for found in path.rglob("*") if found.is_file() and found.name != INDEX)
        return fingerprint([[str(found.relative_to(path)), file_fingerprint(found)] for found in files])
    raise UserError(f"{path}: no such file or folder")


def _content_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@lru_cache(maxsize=4096)
def _content_hash_once(path: Path, *state: int) -> str:
    """`state` is whatever a change of the file changes."""
    return _content_hash(path)
