"""Served load: many clients, cancellations, dropped consumers, scarce blocks. Nothing may leak, no token may be wrong.

`python -m tests.soak_engine --seconds 300 --requests 500` (`make soak`). Requests of mixed
lengths, with 1 to 4 samples, greedy and seeded, arrive in bursts over the time; a quarter is
cancelled and a quarter dropped in the middle. Afterwards every block is free, resident memory
is where it was after the first tenth, and every token, of cancelled samples too, is the one a
full forward of the model would have chosen there.
"""

import argparse
import gc
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.records import Params
from distill.sampling.engine import Engine, Job, RolledOut
from distill.sampling.engine.service import Service
from students.decoder import KVDecoder
from tests.one_by_one import first_difference, toy_student

CAPACITY, SLOTS, BLOCK, BLOCKS = 256, 8, 16, 24
"""24 blocks hold one and a half rows of full length, so rows give way all the time."""
CLIENTS = BURST = 20
LEAK_BYTES = 8 << 20
"""What resident memory may differ by: the allocator's own rounding."""


@dataclass
class Soaked:
    """What came of it."""

    jobs: list[tuple[Job, list[RolledOut]]] = field(default_factory=list)
    fates: dict[str, int] = field(default_factory=lambda: {"heard": 0, "cancelled": 0, "dropped": 0})
    wrong: int = 0
    tokens: int = 0
    preempted: int = 0
    blocks_held: int = 0
    grown_bytes: int = 0

    @property
    def faults(self) -> list[str]:
        """Empty when all is well."""
        found = []
        if self.wrong:
            found.append(f"{self.wrong} samples differ from decoding one by one")
        if self.blocks_held:
            found.append(f"{self.blocks_held} blocks did not come back")
        if self.grown_bytes > LEAK_BYTES:
            found.append(f"resident memory grew by {self.grown_bytes:,} bytes")
        return found


def soak(seconds: float, requests: int, seed: int = 0) -> Soaked:
    """Run the load, then check every sample."""
    chat = Chat(mini_tokenizer())
    model = toy_student(chat, positions=CAPACITY, haste=1)
    decoder = KVDecoder(model)
    engine = Engine(decoder, chat, slots=SLOTS, capacity=CAPACITY, blocks=BLOCKS, block_size=BLOCK, chunk=64)
    jobs = make_jobs(requests, random.Random(seed))
    done, begun = Soaked(), time.monotonic()
    lock, settled = threading.Lock(), list[int]()

    def client(first: int) -> None:
        rng = random.Random(seed + first)
        for place in range(first, len(jobs), CLIENTS):
            time.sleep(max(0.0, begun + seconds * (place - place % BURST) / len(jobs) - time.monotonic()))
            fate, samples = consume(service, jobs[place], rng)
            with lock:
                done.fates[fate] += 1
                done.jobs.append((jobs[place], samples))
                if len(done.jobs) == max(1, len(jobs) // 10):
                    settled.append(resident())

    with Service(engine) as service:
        threads = [threading.Thread(target=client, args=(first,)) for first in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while not engine.idle:
            time.sleep(0.01)
        gc.collect()
        done.grown_bytes = resident() - settled[0]
    done.blocks_held, done.preempted = engine.pool.held, engine.preempted
    for job, samples in done.jobs:
        for seed_, sample in zip(job.seeds, samples, strict=True):
            done.tokens += len(sample.ids)
            done.wrong += first_difference(model, chat, job.prompt_ids, job.params, seed_, sample) is not None
    return done


def make_jobs(count: int, rng: random.Random) -> list[Job]:
    """Short and long, some with a common beginning, some penalized, half of them greedy."""
    head = [rng.randrange(5, 90) for _ in range(40)]
    jobs = []
    for number in range(count):
        ids = [rng.randrange(5, 90) for _ in range(rng.choice([1, 5, 20, 60, 120]))]
        if rng.random() < 0.4:
            ids = head + ids
        params = Params(
            max_tokens=rng.choice([4, 16, 48, 90]),
            temperature=rng.choice([0.0, 1.0]),
            top_p=rng.choice([1.0, 0.9]),
            repetition_penalty=rng.choice([None, 1.2]),
        )
        jobs.append(Job(f"request {number}", ids, params, tuple(number * 10 + k for k in range(rng.randrange(1, 5)))))
    return jobs


def consume(service: Service, job: Job, rng: random.Random) -> tuple[str, list[RolledOut]]:
    """Listen to the end, cancel on the way, or walk away."""
    stream, fate = service.stream(job), rng.choice(["heard", "heard", "cancelled", "dropped"])
    patience = rng.randrange(0, 40)
    for heard, _ in enumerate(stream):
        if heard == patience and fate == "cancelled":
            stream.cancel()
        if heard == patience and fate == "dropped":
            break
    return fate, stream.samples(timeout=120)


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main() -> None:
    """Print one report; exit code 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    done = soak(asked.seconds, asked.requests, asked.seed)
    fates = ", ".join(f"{count} {fate}" for fate, count in done.fates.items())
    print(f"{len(done.jobs)} requests over {asked.seconds:g} s: {fates}")
    print(f"{done.tokens:,} tokens, {done.wrong} samples wrong, rows gave way {done.preempted:,} times")
    print(f"{done.blocks_held} blocks held at the end, resident memory {done.grown_bytes / 2**20:+.1f} MB")
    raise SystemExit("; ".join(done.faults) or 0)


if __name__ == "__main__":
    main()
