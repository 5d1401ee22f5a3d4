"""Training states that survive a kill at any instant.

A state is written into `<out>/resume/step-N.partial`, every file of it is synced, then the
folder is renamed: a folder without `.partial` is whole. The newest two are kept while
training runs and none once the final checkpoint stands. Needs a file system whose rename
is atomic (any local one).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "resume"
KEPT = 2
PARTIAL = ".partial"


class States:
    """The resumable states of one run folder."""

    def __init__(self, out: Path) -> None:
        self.folder = out / FOLDER

    def newest(self) -> tuple[int, Path] | None:
        """Step and folder of the newest whole state."""
        whole = self._whole()
        return max(whole.items()) if whole else None

    @contextmanager
    def write(self, step: int) -> Iterator[Path]:
        """A folder to fill; it becomes the newest state when the block ends without error."""
        self.folder.mkdir(exist_ok=True)
        staged = self.folder / f"step-{step}{PARTIAL}"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        yield staged
        for path in [*staged.iterdir(), staged]:
            sync(path)
        final = self.folder / f"step-{step}"
        shutil.rmtree(final, ignore_errors=True)
        os.rename(staged, final)
        sync(self.folder)
        whole = self._whole()
        for old in sorted(whole)[:-KEPT]:
            shutil.rmtree(whole[old])

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
