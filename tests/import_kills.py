"""Kill an import with SIGKILL, at every durable step and at random instants, resume it, and compare bytes.

`python -m tests.import_kills 100` kills before every sync, rename and unlink of an import of
700 rows, then a hundred times at random; with a second number n only before every n-th step.
What was synced before a kill must stand unchanged after it, and in the end every file must
have the bytes of an import that nobody disturbed: nothing lost, nothing doubled.
Does not cut the power: what the kernel had in hand is still written.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from distill.imports.config import ImportConfig
from distill.imports.stage import import_traces
from distill.progress import Progress
from distill.records import Problem, Trace, Verdict

ROWS = 700


class Comparing:
    """A judge that compares strings."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        for problem, trace in pairs:
            right = trace.answer == problem.answer
            yield Verdict(trace_id=trace.id, judge_version="1", status="correct" if right else "wrong")


def write_rows(path: Path) -> None:
    """Rows of 100 problems, some bad, some the same."""
    rng = random.Random(0)
    with path.open("w") as file:
        for number in range(ROWS):
            asked = number % 100
            row = {"question": f"{asked} + 1 ?", "gold": str(asked + 1), "is_correct": number % 3 == 0}
            row["response"] = f"<think>{'so ' * rng.randrange(40)}</think>{asked + rng.choice((1, 1, 2))}"
            file.write("no json\n" if number % 50 == 7 else json.dumps(row) + "\n")


def import_once(source: Path, out: Path) -> None:
    """Import whatever `out` lacks."""
    out.mkdir(exist_ok=True)
    config = ImportConfig(files=str(source), source="set", teacher="someone", bad_rows="skip")
    import_traces(out, config, data=source.parent, problems=None, judge=Comparing(), progress=Progress("quiet"))


def child(source: Path, out: Path, die_at: int | None, told: int | None = None) -> int:
    """Import in a child that dies before its n-th durable step; its process id."""
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

    for name in ("fsync", "fdatasync", "pwrite", "replace", "unlink"):
        setattr(os, name, watched(getattr(os, name)))
    import_once(source, out)
    if told is not None:
        os.write(told, str(steps).encode())
    os._exit(0)


def killed(process: int) -> bool:
    """Wait for a child; whether a signal ended it."""
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def contents(out: Path) -> dict[str, bytes]:
    """Bytes by file, without the names of lock holders."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name != ".writer")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def main(kills: int, every: int = 1, seed: int = 0) -> int:
    """Kill that often at random; returns 1 when any import came out different."""
    folder = Path(tempfile.mkdtemp())
    source = folder / "set.jsonl"
    write_rows(source)
    told, tell = os.pipe()
    begun = time.monotonic()
    assert not killed(child(source, folder / "whole", None, tell))
    seconds = time.monotonic() - begun
    steps, expected = int(os.read(told, 10)), contents(folder / "whole")
    wrong = 0
    for at in range(0, steps, every):
        out = folder / f"step-{at}"
        assert killed(child(source, out, at))
        import_once(source, out)
        wrong += contents(out) != expected
    rng, done, rounds = random.Random(seed), 0, 0
    while done < kills:
        out, running = folder / f"random-{rounds}", True
        rounds += 1
        while running and done < kills:
            process = child(source, out, None)
            time.sleep(rng.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
            running = killed(process)
            done += running
        import_once(source, out)
        wrong += contents(out) != expected
    print(f"{len(range(0, steps, every))} kills at durable steps, ", end="")
    print(f"{done} at random in {rounds} imports: {wrong} imports wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
