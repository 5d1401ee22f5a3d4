"""Good: the last weights of a run that are worth going back to, should it collapse.

Resumable states are kept for a run that is killed and may be younger than the collapse; these are weights alone,
written with a state while the guard sees nothing wrong, one in place of the other. Gone when the run ends well.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from distill.checkpoints import Lineage, read_lineage, save_checkpoint

FOLDER = "good"


class Good:
    """The folder `good` of one run folder."""

    def __init__(self, out: Path, model: Any, tokenizer: Any, lineage: Lineage) -> None:
        """`model`: the one in training. `lineage`: of what the run will have made."""
        self.out, self.model, self.tokenizer, self.lineage = out, model, tokenizer, lineage
        self.folder, self.fresh = out / FOLDER, out / f"{FOLDER}.partial"

    def keep(self, step: int) -> None:
        """Write the present weights in place of those kept so far."""
        shutil.rmtree(self.fresh, ignore_errors=True)
        self.fresh.mkdir()
        named = self.lineage.model_copy(update={"name": f"{self.lineage.name}-step-{step}"})
        save_checkpoint(self.model, self.tokenizer, self.fresh, named)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.rename(self.fresh, self.folder)

    def clear(self) -> None:
        """Remove what was kept."""
        for folder in (self.folder, self.fresh):
            shutil.rmtree(folder, ignore_errors=True)

    def hand_out(self) -> str:
        """Copy what was kept beside the run folder, where nothing moves it; how to go on, for an error."""
        kept = read_lineage(self.folder) if self.folder.is_dir() else None
        if kept is None:
            return (
                "no state since the start was worth keeping: train again with a lower learning_rate or a beta above 0"
            )
        beside = self.out.with_name(f"{self.lineage.name}-{FOLDER}")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(self.folder, beside)
        return (
            f"the last good weights ({kept.name}) are in {beside}: go on with --from {beside} and a lower "
            "learning_rate, a beta above 0 or more focus on what was lost, or raise the limit that was crossed"
        )
