"""DeepSpeed's ZeRO (arXiv 1910.02054) under `sft`: which configuration, and what is refused before it hangs.

Five configurations are shipped beside this file: stages 1 to 3, and 2 and 3 with optimizer states (3: weights too) in
main memory. Another is a path. What the recipe says is not asked of them again: batch, clipping, accumulation,
bfloat16 (as autocast, weights stay float32) and the optimizer, which is ours, come from the table.

Nothing is compiled. DeepSpeed would build its shared-memory sums on a CPU and its own Adam for offload on first use,
which takes a compiler and a minute, and a build that is killed leaves a lock on which every later run waits without a
word; on a CPU sums go through gloo here, and the optimizer is torch's arithmetic. A configuration of one's own may
still build: locks that nobody holds are refused by name.
"""

import json
import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

from distill.errors import UserError, did_you_mean

SHIPPED = Path(__file__).parent / "deepspeed"
OURS = ("optimizer", "scheduler", "bf16", "fp16", "torch_autocast", "gradient_clipping")
"""Keys of a configuration that the recipe's table decides."""
STALE = 600.0
"""Seconds after which nobody is building any more: the slowest build seen took 330."""


def zero_names() -> list[str]:
    """The shipped configurations."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def read_zero(name: str, *, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's configuration of that name or path, autocast added. Raises UserError."""
    path = Path(name) if name.endswith(".json") else SHIPPED / f"{name}.json"
    if not path.is_file():
        raise UserError(
            f"deepspeed = {name!r}: no such configuration{did_you_mean(name, zero_names())}; expected "
            f"{', '.join(zero_names())}, or the path of a .json file"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("zero_optimization"), dict):
        raise UserError(f"{path}: key zero_optimization: missing; expected a DeepSpeed configuration")
    for key in OURS:
        if key in config and config[key] != "auto":
            raise UserError(f"{path}: key {key}: the recipe's table decides this; remove it, or set it to 'auto'")
    return config | {"gradient_clipping": "auto"} | ({"torch_autocast": AUTOCAST} if bf16 else {})


AUTOCAST = {"enabled": True, "dtype": "bfloat16"}


def stage_of(config: dict[str, Any]) -> int:
    """1, 2 or 3."""
    return int(config["zero_optimization"].get("stage", 0))


def prepare_zero() -> None:
    """Keep DeepSpeed from compiling what is not needed, and from waiting for who is gone. Raises UserError."""
    import deepspeed

    check_builds()
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Accelerate warns of two ways to count accumulation, torch of calls that DeepSpeed makes every step.
    logging.getLogger("accelerate.accelerator").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")


def check_builds() -> None:
    """UserError when a build of an operation left its lock behind: the next one would wait for ever."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    folder = Path(root) if root else Path.home() / ".cache" / "torch_extensions"
    for lock in sorted(folder.glob("**/lock")):
        age = time.time() - lock.stat().st_mtime
        if age > STALE:
            raise UserError(
                f"{lock}: left by a build that was killed {age / 60:.0f} minutes ago; DeepSpeed would wait for it for "
                f"ever. Remove the folder {lock.parent} and start again"
            )
