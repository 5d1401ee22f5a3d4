"""What adapters save: bytes of a state, and memory of one step, against training all weights.

`python -m tests.lora_bytes MODEL EXAMPLES [TOKENS]` trains one step on a checkpoint folder in each way, every way in a
process of its own, and prints the bytes of the state's weights and optimizer, and how far the process grew by then,
reading the folder included. Training ends there: nothing is merged.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WAYS: dict[str, dict[str, Any] | None] = {
    "all weights": None,
    "lora, full base": {"base": "full"},
    "lora, int8 base": {"base": "int8"},
    "lora, nf4 base": {"base": "nf4"},
}


def one(model: str, examples: str, tokens: int, lora: dict[str, Any] | None) -> None:
    """Train one step and print what it left, as JSON."""
    from cli.libraries import prepare
    from cli.loading import Folders
    from distill.progress import Progress
    from distill.train.resume import States
    from distill.train.sft import sft
    from distill.train.sft_table import SftConfig

    prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def measure(states: States, staged: Path, step: int, metric: float | None) -> None:
        left = {name: (staged / name).stat().st_size for name in ("weights.pt", "optimizer.pt")}
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        print(json.dumps({**left, "peak": peak}), flush=True)
        shutil.rmtree(staged.parents[1])
        os._exit(0)

    States._publish = measure  # type: ignore[method-assign]
    config = SftConfig(
        data="data",
        model="model",
        steps=1,
        save_every=1,
        tokens_per_batch=tokens,
        optimizer="adamw",
        allow_contaminated=True,
        lora=lora,  # type: ignore[arg-type]  # pydantic makes it a table
    )
    with tempfile.TemporaryDirectory() as out:
        sft(Path(examples), Path(model), Path(out), config, loader=Folders(), seed=0, progress=Progress("quiet"))


def main() -> None:
    model, examples, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 256
    if len(sys.argv) > 4:
        one(model, examples, tokens, json.loads(sys.argv[4]))
        return
    print(f"{'':<16} {'weights':>14} {'optimizer':>14} {'peak':>14}")
    for way, lora in WAYS.items():
        command = [sys.executable, "-W", "ignore", "-m", "tests.lora_bytes", model, examples, str(tokens)]
        done = subprocess.run([*command, json.dumps(lora)], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{way:<16} {found['weights.pt']:>14,} {found['optimizer.pt']:>14,} {found['peak']:>14,}", flush=True)


if __name__ == "__main__":
    main()
