"""Kill a measuring with SIGKILL at random instants, resume it, and count what was lost or doubled.

`python -m tests.measure_kills 100` kills a hundred times. A child process measures a small harvest
under a sampler without a model; each fdatasync is told to the parent, as in `harvest_kills`.
"""

import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from distill.curate.measure import MEASURES, Measure, MeasureConfig, measure
from distill.harvest import TRACES
from distill.jsonl import write_jsonl
from distill.ledger import Ledger, read_ledger
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.prompts import Chat, join_thought
from distill.records import Params, Problem, SamplerId, Trace
from distill.sampling.protocols import TokenScores
from tests.harvest_kills import digest, tell_every_sync

TRACES_MADE = 600
READ_AHEAD = 20


class Halving:
    """Finds every token half as likely as the one before; scores in windows, as an engine does."""

    identity = SamplerId(name="halving", revision="1")

    def score_many(self, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
        window: list[list[int]] = []
        for ids in sequences:
            window.append(ids)
            if len(window) == READ_AHEAD:
                yield from map(self._score, window)
                window = []
        yield from map(self._score, window)

    def _score(self, ids: list[int]) -> TokenScores:
        given = -torch.arange(1.0, len(ids)) / 64
        return TokenScores(given, torch.tensor([ids[1:]]).T, given[:, None])


def make_harvest(folder: Path) -> None:
    """Problems and traces; every seventh trace was cut."""
    problem = {"kind": "answer", "answer": "3", "source": "expressions", "split": "train"}
    write_jsonl(folder / "problems.jsonl", [Problem(id="p", prompt="Evaluate 1 + 2 .", **problem)])
    rng = random.Random(0)
    with Ledger(folder / "harvest" / TRACES) as ledger:
        for number in range(TRACES_MADE):
            thought, cut = "1 + 2 = 3 ; " * rng.randrange(30), number % 7 == 0
            text = join_thought(thought, "3")
            ledger.append(
                Trace(
                    id=f"t{number:03}",
                    problem_id="p",
                    sampler=SamplerId(name="teacher", revision="1"),
                    params=Params(max_tokens=400),
                    sample_index=number,
                    reasoning=None if cut else thought,
                    answer=None if cut else "3",
                    text=text,
                    finish="length" if cut else "stop",
                    prompt_tokens=5,
                    completion_tokens=len(text.split()),
                )
            )


def measure_once(folder: Path, out: Path, chat: Chat) -> None:
    """Measure whatever `out` lacks."""
    config = MeasureConfig(traces="harvest", problems="problems", model="halving")
    measure(
        [folder / "harvest"],
        [folder / "problems.jsonl"],
        out,
        config,
        sampler=Halving(),  # type: ignore[arg-type]  # it only measures
        chat=chat,
        context=300,
        progress=Progress("quiet"),
    )


def killed(folder: Path, out: Path, chat: Chat, rng: random.Random) -> tuple[bool, dict[Path, int]]:
    """Measure in a child and kill it; was it running, and what had it synced?"""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        tell_every_sync(tell)
        measure_once(folder, out, chat)
        os._exit(0)
    os.close(tell)
    if rng.random() < 0.7:
        select.select([told], [], [], 10.0)
    time.sleep(rng.uniform(0.0, 0.2))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(told) as lines:
        synced = dict(line.split() for line in lines if line.endswith("\n"))
    return os.WIFSIGNALED(status), {Path(name): int(size) for name, size in synced.items()}


def main(kills: int, seed: int = 0) -> int:
    """Kill that often; returns 1 when anything was lost or doubled."""
    rng, chat = random.Random(seed), Chat(mini_tokenizer())
    folder = Path(tempfile.mkdtemp())
    make_harvest(folder)
    measure_once(folder, folder / "whole", chat)
    whole = list(read_ledger(folder / "whole" / MEASURES, Measure))
    done = late = rounds = lost = doubled = 0
    while done < kills:
        rounds += 1
        out, running = folder / str(rounds), True
        prefixes: dict[Path, tuple[int, str]] = {}
        while running and done < kills:
            running, synced = killed(folder, out, chat, rng)
            done += running
            late += running and bool(synced)
            for path, size in synced.items():
                lost += path.stat().st_size < size
                prefixes[path] = size, digest(path, size)
        measure_once(folder, out, chat)
        lost += sum(digest(path, size) != before for path, (size, before) in prefixes.items())
        found = list(read_ledger(out / MEASURES, Measure))
        doubled += len(found) - len({row.trace_id for row in found})
        lost += sum(row not in found for row in whole)
    shutil.rmtree(folder)
    print(f"{done} kills, {late} of them after the first write, in {rounds} measurings of {len(whole)} traces:")
    print(f"{lost} acknowledged or measured records lost or changed, {doubled} doubled")
    return int(bool(lost or doubled))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
