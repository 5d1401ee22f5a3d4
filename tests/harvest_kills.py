"""Kill a harvest with SIGKILL at random instants, resume it, and count what was lost or doubled.

`python tests/harvest_kills.py 100` kills a hundred times. A child process harvests; each
fdatasync it makes is told to the parent through a pipe, as the size the file then has. After
every kill the parent checks that those bytes are on disk, and at the end that they were
never changed and that every sample and verdict is there once.
Does not cut the power: what the kernel had in hand is still written.
"""

import hashlib
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

from distill.errors import UserError
from distill.harvest import TRACES, VERDICTS, sample_and_judge
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.prompts import join_thought
from distill.records import Completion, Params, Problem, SamplerId, Trace, Verdict
from distill.sampling.protocols import Answered, Request, TokenScores

PROBLEMS = [
    Problem(id=f"p{number}", kind="answer", prompt=f"{number} + 1 ?", answer=str(number + 1), source="x", split="train")
    for number in range(200)
]
SAMPLES = 4


class Counting:
    """A sampler that is right three times in four."""

    identity = SamplerId(name="counting", revision="1")
    think_open = False

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for request in requests:
            said = [self._say(request, request.seed + k) for k in range(request.n)]
            yield Answered(request, tuple(said))

    def score(self, token_ids: list[int], top_k: int) -> TokenScores:
        raise UserError("this sampler has no probabilities")

    def _say(self, request: Request, seed: int) -> Completion:
        rng = random.Random(seed)
        answer = int(request.id[1:]) + (1 if rng.random() < 0.75 else 2)
        text = join_thought("so …\n" * rng.randrange(40), str(answer))
        return Completion(text=text, finish="stop", prompt_tokens=4, completion_tokens=len(text.split()))


class Comparing:
    """A judge that compares strings."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        for problem, trace in pairs:
            right = trace.answer == problem.answer
            yield Verdict(trace_id=trace.id, judge_version="1", status="correct" if right else "wrong")


def harvest_once(out: Path) -> None:
    """Harvest whatever `out` lacks."""
    rows = sample_and_judge(
        PROBLEMS,
        out,
        Params(max_tokens=100),
        SAMPLES,
        sampler=Counting(),
        judge=Comparing(),
        seed=0,
        progress=Progress("quiet"),
    )
    for _ in rows:
        pass


def killed(out: Path, rng: random.Random) -> tuple[bool, dict[Path, int]]:
    """Harvest in a child, kill it soon after its start or its first write; was it running, what had it synced?"""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        tell_every_sync(tell)
        harvest_once(out)
        os._exit(0)
    os.close(tell)
    if rng.random() < 0.7:
        select.select([told], [], [], 10.0)
    time.sleep(rng.uniform(0.0, 0.04))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(told) as lines:
        synced = dict(line.split() for line in lines if line.endswith("\n"))
    return os.WIFSIGNALED(status), {Path(name): int(size) for name, size in synced.items()}


def main(kills: int, seed: int = 0) -> int:
    """Kill that often; returns 1 when anything was lost or doubled."""
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    done = late = rounds = lost = doubled = 0
    while done < kills:
        rounds += 1
        out = folder / str(rounds)
        prefixes: dict[Path, tuple[int, str]] = {}
        running = True
        while running and done < kills:  # a harvest is killed again and again until it gets through
            running, synced = killed(out, rng)
            done += running
            late += running and bool(synced)
            for path, size in synced.items():
                lost += path.stat().st_size < size
                prefixes[path] = size, digest(path, size)
        harvest_once(out)
        lost += sum(digest(path, size) != before for path, (size, before) in prefixes.items())
        for name, record, key in ((TRACES, Trace, "id"), (VERDICTS, Verdict, "trace_id")):
            found = [getattr(row, key) for row in read_ledger(out / name, record)]
            doubled += len(found) - len(set(found))
            lost += len(PROBLEMS) * SAMPLES - len(set(found))
    shutil.rmtree(folder)
    print(f"{done} kills, {late} of them after the first write, in {rounds} harvests:")
    print(f"{lost} acknowledged records lost, {doubled} doubled")
    return int(bool(lost or doubled))


def tell_every_sync(tell: int) -> None:
    sync = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        sync(descriptor)
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        os.write(tell, f"{name} {os.fstat(descriptor).st_size}\n".encode())

    os.fdatasync = fdatasync  # type: ignore[assignment]


def digest(path: Path, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
