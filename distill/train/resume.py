"""Training states that survive a kill at any instant.

A state is written into `<out>/resume/step-N.partial`, every file of it is synced, then the
folder is renamed: a folder without `.partial` is whole. The newest two are kept while
training runs and none once the final checkpoint stands. Needs a file system whose rename
is atomic (any local one). Processes that share a model share the folder: each writes its part (into
`rank-N` of the state, where parts have the same names), and the state is whole when all are done.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.train.ranks import Ranks

FOLDER = "resume"
KEPT = 2
PARTIAL = ".partial"


class States:
    """The resumable states of one run folder."""

    def __init__(self, out: Path, ranks: Ranks | None = None) -> None:
        self.folder, self.ranks = out / FOLDER, ranks

    def newest(self) -> tuple[int, Path] | None:
        """Step of the newest whole state, and the folder of this process's part of it."""
        whole = self._whole()
        if not whole:
            return None
        step, folder = max(whole.items())
        return step, self._own(folder)

    @contextmanager
    def write(self, step: int) -> Iterator[Path]:
        """A folder for this process to fill; the state is the newest when the block ends without error, on all."""
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
            self._publish(staged, step)

    def _publish(self, staged: Path, step: int) -> None:
        """Give a state that is on disk its name, and let go of the oldest."""
        sync(staged)
        final = self.folder / f"step-{step}"
        shutil.rmtree(final, ignore_errors=True)
        os.rename(staged, final)
        sync(self.folder)
        whole = self._whole()
        for old in sorted(whole)[:-KEPT]:
            shutil.rmtree(whole[old])

    @property
    def _leads(self) -> bool:
        return self.ranks is None or self.ranks.rank == 0

    def _own(self, folder: Path) -> Path:
        return folder / f"rank-{self.ranks.rank}" if self.ranks is not None and self.ranks.in_parts else folder

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


def sync(path: Path) -> None:
    """Bring a file or a folder's entries onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
