"""Kill a conversion with SIGKILL, at every durable step and at random instants, resume it, and compare bytes.

`python -m tests.convert_kills 100` kills before every fsync, rename and unlink of a conversion, then
a hundred times at random; with a second number n only before every n-th step. A folder that
appears must be complete at once, and in the end every file must have the bytes of an undisturbed
conversion.
Does not cut the power: what the kernel had in hand is still written.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from teacher.convert import convert
from tests.teacher_folders import fp8_folder

LEFT = {".run.json"}
"""What may still lie in a complete folder when the last step was killed."""


def convert_once(source: Path, out: Path) -> None:
    """Convert whatever `out` lacks, into some ten shards."""
    convert(source, out, shard_size="100KB")


def child(source: Path, out: Path, die_at: int | None, told: int | None = None) -> int:
    """Convert in a child that dies before its n-th durable step; its process id."""
    process = os.fork()
    if process:
        return process
    steps = 0

    def watched(act: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            if steps == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1
            return act(*args, **kwargs)

        return step

    for name in ("fsync", "replace", "rename", "unlink"):
        setattr(os, name, watched(getattr(os, name)))
    convert_once(source, out)
    if told is not None:
        os.write(told, str(steps).encode())
    os._exit(0)


def killed(process: int) -> bool:
    """Wait for a child; whether a signal ended it."""
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def contents(out: Path) -> dict[str, bytes]:
    """Bytes by file, the folder's own name in the lineage left out."""
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    found["lineage.json"] = json.dumps({**json.loads(found["lineage.json"]), "name": ""}).encode()
    return found


def same(out: Path, expected: dict[str, bytes]) -> bool:
    """Whether a folder is complete, give or take the mark that the last step removes."""
    found = contents(out)
    return {name: data for name, data in found.items() if name not in LEFT} == expected


def main(kills: int, every: int = 1, seed: int = 0) -> int:
    """Kill that often at random; returns 1 when any folder was incomplete or different."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    source = fp8_folder(folder / "source")
    told, tell = os.pipe()
    begun = time.monotonic()
    assert not killed(child(source, folder / "whole", None, tell))
    seconds = time.monotonic() - begun
    steps, expected = int(os.read(told, 10)), contents(folder / "whole")
    wrong = 0
    for at in range(0, steps, every):
        out = folder / f"step-{at}"
        assert killed(child(source, out, at))
        wrong += out.exists() and not same(out, expected)
        convert_once(source, out)
        wrong += contents(out) != expected or out.with_name(f"{out.name}.partial").exists()
    rng, done, rounds = random.Random(seed), 0, 0
    while done < kills:
        out = folder / f"random-{rounds}"
        rounds += 1
        while done < kills and not out.exists():
            process = child(source, out, None)
            time.sleep(rng.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
            done += killed(process)
        wrong += out.exists() and not same(out, expected)
        if not out.exists() or LEFT & contents(out).keys():
            convert_once(source, out)
        wrong += contents(out) != expected
    print(f"{len(range(0, steps, every))} kills at durable steps, ", end="")
    print(f"{done} at random in {rounds} conversions: {wrong} folders wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
