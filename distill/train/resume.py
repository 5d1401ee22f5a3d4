"""Training states that survive a kill at any instant, and damage that came later.

A state is written into `<out>/resume/step-N.partial`, every file of it is synced, a manifest with the length and
hash of each is written last, then the folder is renamed: a folder without `.partial` is whole. Before one is continued
from, every file is read and compared; a state that lost or changed a byte is named and the one before it is taken
(transformers' `get_last_checkpoint` trusts the largest number). The newest few are kept while training runs, beside
the best by a metric where one is asked for, and none once the final checkpoint stands. Needs a file system whose
rename is atomic (any local one). Processes that share a model share the folder: each writes its part (into `rank-N` of
the state, where parts have the same names), and the state is whole when all are done.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from distill.records import Record
from distill.runs import sync
from distill.train.ranks import Ranks

FOLDER = "resume"
PARTIAL = ".partial"
HASHES = "hashes.json"
"""Manifest of a state, written when its files are on disk."""
LOWEST = ("loss", "held_out_loss")
"""Metrics of which the lowest is best; of all others the highest."""

logger = logging.getLogger(__name__)


class Content(Record):
    """What a file of a state holds."""

    bytes: int
    sha256: str


class Hashes(Record):
    """Every file of a state, by its name in it."""

    metric: float | None
    """What the best state is found by; None where none is asked for."""
    files: Mapping[str, Content]


@dataclass(frozen=True, slots=True)
class Keep:
    """Which states stay."""

    last: int = 2
    metric: str | None = None
    """Field of the curve by which the best state is found; that one stays however old it is."""


class States:
    """The resumable states of one run folder."""

    def __init__(self, out: Path, ranks: Ranks | None = None, keep: Keep | None = None) -> None:
        self.folder, self.ranks, self.keep = out / FOLDER, ranks, keep or Keep()

    def newest(self) -> tuple[int, Path] | None:
        """Step of the newest verified state, and the folder of this process's part of it. Damaged ones are named."""
        for step, folder in sorted(self._whole().items(), reverse=True):
            if self._is_sound(folder):
                return step, self._own(folder)
        return None

    def best(self) -> tuple[int, Path] | None:
        """The same of the state whose metric is best, the earlier of equals. None where none is kept for that."""
        whole = self._whole()
        for step in self._ranked(list(whole)):
            if self._is_sound(whole[step]):
                return step, self._own(whole[step])
        return None

    @contextmanager
    def write(self, step: int, metric: float | None = None) -> Iterator[Path]:
        """A folder for this process to fill; the state is the newest when the block ends without error, on all.

        `metric`: of process 0, what the best state is found by.
        """
        staged = self.folder / f"step-{step}{PARTIAL}"
        if self._leads:
            self.folder.mkdir(exist_ok=True)
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir()
        self._wait()
        own = self._own(staged)
        own.mkdir(exist_ok=True)
        yield own
        self._wait()
        for path in [*own.rglob("*"), own]:
            sync(path)
        self._wait()
        if self._leads:
            self._publish(staged, step, metric)

    def _publish(self, staged: Path, step: int, metric: float | None) -> None:
        """Give a state that is on disk its manifest and its name, and let go of the oldest."""
        files = {str(path.relative_to(staged)): _content(path) for path in _files(staged)}
        (staged / HASHES).write_text(Hashes(metric=metric, files=files).to_json(), encoding="utf-8")
        sync(staged / HASHES)
        sync(staged)
        self._remove(f"step-{step}")  # damaged, or it would have been continued from
        os.rename(staged, self.folder / f"step-{step}")
        sync(self.folder)
        # Later ones are damaged too, and are written anew when their step comes.
        known = sorted(found for found in self._whole() if found <= step)
        kept = {*known[-self.keep.last :], *self._ranked(known)[:1]}
        for old in sorted(set(known) - kept):
            self._remove(f"step-{old}")

    def _remove(self, name: str) -> None:
        """Delete a state, which at no instant looks like a whole one."""
        if not (self.folder / name).exists():
            return
        doomed = self.folder / f"{name}.old{PARTIAL}"
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(self.folder / name, doomed)
        shutil.rmtree(doomed)

    def _ranked(self, steps: list[int]) -> list[int]:
        """Steps with a metric, best first, the earlier of equals first; none where no best is kept."""
        if self.keep.metric is None:
            return []
        sign = 1.0 if self.keep.metric in LOWEST else -1.0
        values = {step: metric for step in steps if (metric := self.metric(step)) is not None}
        return sorted(values, key=lambda step: (sign * values[step], step))

    def metric(self, step: int) -> float | None:
        """What a state was kept by."""
        found = _hashes(self.folder / f"step-{step}")
        return found.metric if isinstance(found, Hashes) else None

    def _is_sound(self, folder: Path) -> bool:
        found = fault(folder)
        if found is not None:
            logger.warning("%s: not used: %s", folder, found)
        return found is None

    @property
    def _leads(self) -> bool:
        return self.ranks is None or self.ranks.rank == 0

    def _own(self, folder: Path) -> Path:
        return folder if self.ranks is None or not self.ranks.in_parts else folder / f"rank-{self.ranks.rank}"

    def _wait(self) -> None:
        if self.ranks is not None:
            self.ranks.wait()

    def clear(self) -> None:
        """Remove every state: the final checkpoint has taken their place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _whole(self) -> dict[int, Path]:
        if not self.folder.is_dir():
            return {}
        found = [path for path in self.folder.iterdir() if path.name.startswith("step-")]
        return {int(path.name.removeprefix("step-")): path for path in found if path.suffix != PARTIAL}


def fault(folder: Path) -> str | None:
    """What is wrong with a state, file and what was expected of it; None when every byte is as it was written."""
    hashes = _hashes(folder)
    if isinstance(hashes, str):
        return hashes
    for name, wanted in hashes.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != wanted.bytes:
            return f"{name} has {size:,} bytes, {wanted.bytes:,} were written"
        if _content(path) != wanted:
            return f"{name} is damaged: its hash is not the one written"
    surplus = {str(path.relative_to(folder)) for path in _files(folder)} - set(hashes.files) - {HASHES}
    return f"{min(surplus)} was not written by the training" if surplus else None


def _hashes(folder: Path) -> Hashes | str:
    """The manifest of a state, or what is wrong with it."""
    path = folder / HASHES
    if not path.is_file():
        return f"{HASHES} is missing"
    try:
        return Hashes.model_validate_json(path.read_bytes())
    except ValidationError:
        return f"{HASHES} is damaged"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _content(path: Path) -> Content:
    with path.open("rb") as file:
        return Content(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
