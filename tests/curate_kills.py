"""Kill a curate step with SIGKILL at random instants, run it again, and compare bytes.

`python -m tests.curate_kills 100` kills until that many have died. A run folder that appears must
be complete at once, and in the end every file but the manifest must have the bytes of an
undisturbed step. Does not cut the power: what the kernel had in hand is still written.
"""

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import pandas  # noqa: F401 - here once, not in every child
import pyarrow.parquet  # noqa: F401
import torch  # noqa: F401

from cli.stages import REGISTRY
from distill.progress import Progress
from distill.recipe import load_recipe, run_step
from distill.runs import MANIFEST, RESUME
from tests.curate_world import World

RECIPE = """
[curate]
traces = "{folder}/harvest"
problems = "{folder}/problems"
against = "{folder}/problems"
order = "level"
orders = ["length"]
"""


def harvest(folder: Path, traces: int) -> Path:
    """A harvest with some of everything, and a recipe that curates it."""
    world = World(folder)
    for number in range(traces):
        world.say(f"p{number % 3 + 1}", str(number % (traces - 7)), "wrong" if number % 5 == 0 else "correct")
    world.write()
    recipe = folder / "small.toml"
    recipe.write_text(RECIPE.format(folder=folder))
    return recipe


def child(recipe: Path, out: Path) -> int:
    """Run the step in a child; its process id."""
    process = os.fork()
    if not process:
        run_step(load_recipe(recipe, REGISTRY), "curate", out, Path(), Progress("quiet"))
        os._exit(0)
    return process


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes by file; the manifest tells the time and is compared by being there."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RESUME}
    return {**found, MANIFEST: b"there" if MANIFEST in found else b""}


def main(kills: int, traces: int = 400, seed: int = 0) -> int:
    """Kill that often; returns 1 when any folder was incomplete or different."""
    folder = Path(tempfile.mkdtemp())
    recipe = harvest(folder, traces)
    begun = time.monotonic()
    os.waitpid(child(recipe, folder / "whole"), 0)
    seconds, expected = time.monotonic() - begun, contents(folder / "whole/curate")
    rng, done, rounds, wrong = random.Random(seed), 0, 0, 0
    while done < kills:
        out = folder / f"random-{rounds}"
        rounds += 1
        while done < kills and not (out / "curate").exists():
            process = child(recipe, out)
            time.sleep(rng.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
            done += os.WIFSIGNALED(os.waitpid(process, 0)[1])
        wrong += (out / "curate").exists() and contents(out / "curate") != expected
        os.waitpid(child(recipe, out), 0)
        wrong += contents(out / "curate") != expected or (out / "curate.partial").exists()
    print(f"{done} kills in {rounds} steps of {seconds:.2f} s: {wrong} folders wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
