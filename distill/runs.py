"""Run folders: a folder exists only when it is complete.

`<step>.partial` is filled, its `manifest.json` written last, then renamed to `<step>`.
The same fingerprint resumes a partial folder; another fingerprint moves it aside, never
mixes into it and never deletes it. One process at a time holds a step.
"""

import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from distill.errors import UserError
from distill.records import Record, fingerprint, reason, unused

MANIFEST = "manifest.json"
RESUME = ".run.json"
"""Inside a partial folder: the fingerprint it was begun with."""


class InputRef(Record):
    """One input of a step: which field of the table, what it named, what was in it."""

    field: str
    name: str
    fingerprint: str


class Report(Record):
    """What a stage returns: goes into the manifest and onto the screen."""

    counts: dict[str, int | float] = Field(default_factory=dict)
    tokens: int = 0
    """Tokens generated or trained on, whichever the stage pays for."""
    cost: float | None = None
    """Currency units, when a price table was given."""
    lines: tuple[str, ...] = ()
    """Plain aligned text for the screen."""
    marks: dict[str, Any] = Field(default_factory=dict)
    """Facts later steps look for, such as `decontaminated`."""
    short: str | None = Field(default=None, exclude_if=unused)
    """Hash of what is there, where a limit ended the step before all its table asks for; it may go on some day."""


class Manifest(Record):
    """Everything needed to know where a run folder came from and to make it again."""

    step: str
    stage: str
    stage_version: str
    fingerprint: str
    seed: int
    config: dict[str, Any]
    inputs: tuple[InputRef, ...]
    versions: dict[str, str]
    git_commit: str | None
    device: str
    started: str
    seconds: float
    resumed: int
    """How many earlier attempts this folder continued."""
    report: Report
    amended: str | None = None
    """Hash of what it holds, where that is not all its fingerprint says: verdicts judged again, or a step cut short."""

    @property
    def content(self) -> str:
        """What later steps depend on: what it was made from, and what is there instead."""
        return self.fingerprint if self.amended is None else fingerprint([self.fingerprint, self.amended])


@dataclass(frozen=True, slots=True)
class Opened:
    """A partial folder held by this process."""

    out: Path
    resumed: int
    """0 for a fresh folder, else the number of earlier attempts."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete run folder; UserError when it is none."""
    path = folder / MANIFEST
    if not path.is_file():
        partial = folder.with_name(folder.name + ".partial")
        hint = " (an unfinished one stands beside it: run the step again to resume)" if partial.is_dir() else ""
        if stopped := _begun(partial).get("stopped"):
            hint = f" (an unfinished one stands beside it: {stopped})"
        raise UserError(f"{folder}: not a complete run folder, {MANIFEST} is missing{hint}")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValueError as error:
        why = reason(error) if isinstance(error, ValidationError) else str(error)
        raise UserError(
            f"{path}: not a manifest this version can read ({why}); move the folder away to make it again"
        ) from error


def is_done(folder: Path, fingerprint: str) -> bool:
    """True when `folder` is complete and was made from exactly this."""
    return (folder / MANIFEST).is_file() and read_manifest(folder).fingerprint == fingerprint


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a step against other processes. Raises UserError naming the holder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise UserError(_held(folder, lock.read())) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()} since {_now()}")
        lock.flush()
        yield


def check_free(folder: Path) -> None:
    """Raise UserError naming the holder when another process holds a step now. Takes nothing, promises nothing."""
    path = _lock(folder)
    if not path.is_file():
        return
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(_held(folder, lock.read())) from error


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _held(folder: Path, holder: str) -> str:
    return f"{folder}: held by {holder.strip() or 'another process'}; wait for it or choose another --out"


@contextmanager
def open_run(
    folder: Path, fingerprint: str, goes_on: Callable[[Manifest], bool] = lambda manifest: False
) -> Iterator[Opened | None]:
    """Hold a step and open its partial folder: resumed when the fingerprint is the same.

    None when the step is done: another process may have finished it before the hold was ours. A finished
    folder that `goes_on` becomes a partial one again.
    """
    with hold(folder):
        if is_done(folder, fingerprint):
            manifest = read_manifest(folder)
            if not goes_on(manifest):
                yield None
                return
            _reopen(folder, manifest)
        partial = folder.with_name(folder.name + ".partial")
        resumed = 0
        if partial.exists():
            begun = _begun(partial)
            if begun.get("fingerprint") == fingerprint:
                resumed = int(begun.get("attempts", 1))
            else:
                _move_aside(partial, str(begun.get("fingerprint", "unknown")))
        partial.mkdir(exist_ok=True)
        begun = {"fingerprint": fingerprint, "attempts": resumed + 1}
        write_durably(partial / RESUME, json.dumps(begun))
        yield Opened(partial, resumed)


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest last, then rename the partial folder: from here on the step is done."""
    partial = folder.with_name(folder.name + ".partial")
    write_durably(partial / MANIFEST, manifest.model_dump_json(indent=2))
    if folder.exists():
        old = read_manifest(folder).fingerprint if (folder / MANIFEST).is_file() else "unknown"
        _move_aside(folder, old)
    os.rename(partial, folder)
    sync_folder(folder.parent)
    (folder / RESUME).unlink()  # last: a kill before the rename must find it


def note_stop(partial: Path, why: str) -> None:
    """Say in a partial folder why it is not finished; forgotten when the step is opened again."""
    write_durably(partial / RESUME, json.dumps({**_begun(partial), "stopped": why}))


def _reopen(folder: Path, manifest: Manifest) -> None:
    """Make a finished folder a partial one. The manifest goes last: a partial folder is one by its name."""
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        _move_aside(partial, str(_begun(partial).get("fingerprint", "unknown")))
    begun = {"fingerprint": manifest.fingerprint, "attempts": manifest.resumed + 1}
    write_durably(folder / RESUME, json.dumps(begun))
    os.rename(folder, partial)
    sync_folder(folder.parent)
    (partial / MANIFEST).unlink(missing_ok=True)


def write_durably(path: Path, text: str) -> None:
    """Replace a small file: after this returns it survives a power cut, before it the old one stands."""
    staged = path.with_name(path.name + ".tmp")
    with staged.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names made, replaced or removed in a folder survive a power cut after this returns."""
    sync(folder)


def sync(path: Path) -> None:
    """Bring a file or a folder's entries onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def environment() -> dict[str, str]:
    """Versions that can change a result."""
    names = ("torch", "transformers", "trl", "datasets", "tokenizers", "bitsandbytes", "triton", "math-verify")
    found = {name: _version(name) for name in names}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}


def device() -> str:
    """What the numbers of this process are made on."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"cpu ({torch.get_num_threads()} threads)"


def git_commit() -> str | None:
    """Commit of the checkout this package runs from, with `+` when it has changes."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine: the commit is unknown, the run is not in danger
        return None
    return described.stdout.strip() or None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _begun(partial: Path) -> dict[str, Any]:
    path = partial / RESUME
    try:
        begun = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # killed before the first byte was on disk: nothing in it is acknowledged
    return begun if isinstance(begun, dict) else {}


def _move_aside(folder: Path, mark: str) -> None:
    target = folder.with_name(f"{folder.name}.{mark[:8]}")
    count = 1
    while target.exists():
        count += 1
        target = folder.with_name(f"{folder.name}.{mark[:8]}-{count}")
    os.rename(folder, target)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
