"""Storms: thousands of requests against servers that fail, refuse and die. Exactly once, and little for nothing.

`python -m tests.storm --requests 10000` (`make storm`). Each storm harvests into a ledger through
`sample_and_judge`, reads it back, and compares what the server counted with what is stored. Calls
the server itself failed are its own doing; wasted are the others that brought nothing:
whole completions that are not in the ledger, and calls the server refused as too much.
"""

import argparse
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from distill.harvest import TRACES, sample_and_judge
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.records import Params, Problem, Trace
from distill.sampling.endpoint import EndpointConfig, EndpointSampler
from tests.mock_server import Running, mock_server


@dataclass(frozen=True)
class Storm:
    """What came of one."""

    name: str
    requests: int
    stored: int
    doubled: int
    mixed_up: int
    calls: int
    failed: int
    wasted: int
    seconds: float

    def line(self) -> str:
        """For the screen."""
        return (
            f"{self.name}: {self.stored:,} of {self.requests:,} stored, "
            f"{self.doubled} doubled, {self.mixed_up} mixed up; "
            f"{self.calls:,} calls, {self.failed:,} failed by the server, {self.wasted:,} wasted "
            f"({self.wasted / self.calls:.1%}); {self.seconds:.1f} s"
        )


def problems(count: int) -> list[Problem]:
    """So many, each with a prompt of its own."""
    return [Problem(id=f"p{k}", kind="open", prompt=f"say {k}", source="storm", split="train") for k in range(count)]


def harvest(servers: list[Running], count: int, out: Path, samples: int = 1, **fields: object) -> EndpointSampler:
    """All of them, through every server."""
    settings = {"urls": tuple(server.url for server in servers), "model": "mock", "revision": "1", **fields}
    sampler = EndpointSampler(EndpointConfig(**settings))  # type: ignore[arg-type]
    rows = sample_and_judge(
        problems(count),
        out,
        Params(max_tokens=100),
        samples,
        sampler=sampler,
        judge=None,
        seed=0,
        progress=Progress("quiet"),
    )
    for _ in rows:
        pass
    return sampler


def check(out: Path) -> tuple[int, int, int]:
    """Traces stored, ids stored twice, and answers that belong to another problem."""
    ids: Counter[str] = Counter()
    mixed = 0
    for trace in read_ledger(out / TRACES, Trace):
        ids[trace.id] += 1
        mixed += not (trace.answer or "").startswith(f"say {trace.problem_id[1:]} ")
    return len(ids), ids.total() - len(ids), mixed


def errors(count: int, out: Path) -> Storm:
    """30% of calls fail, in ten ways."""
    begun = time.monotonic()
    with mock_server(errors=0.3, seed=1) as server:
        harvest([server], count, out, concurrency=64)
        seconds, counts = time.monotonic() - begun, server.counts
    wasted = counts["whole"] - count + counts["refused"]
    return Storm("30% errors", count, *check(out), counts["calls"], counts["failed"], wasted, seconds)


def crowd(count: int, out: Path) -> Storm:
    """A server that works on 12 at once is asked by a client that may ask 64."""
    begun = time.monotonic()
    with mock_server(capacity=12, seconds=0.02) as server:
        harvest([server], count, out, concurrency=64)
        seconds, counts = time.monotonic() - begun, server.counts
    wasted = counts["whole"] - count + counts["refused"]
    return Storm("429 beyond 12", count, *check(out), counts["calls"], counts["failed"], wasted, seconds)


def death(count: int, out: Path) -> Storm:
    """Of two servers one is killed in the middle."""
    begun = time.monotonic()
    with mock_server(seconds=0.02) as one, mock_server(seconds=0.02) as other:
        killer = threading.Thread(target=_kill_at, args=(one, count // 4))
        killer.start()
        sampler = harvest([one, other], count, out, concurrency=16)
        killer.join()
        seconds, counts = time.monotonic() - begun, other.counts
    dead, alive = sampler.health()
    wasted = counts["whole"] - alive.ok
    calls = dead.ok + dead.failed + counts["calls"]
    return Storm("one of two dies", count, *check(out), calls, dead.failed, wasted, seconds)


def _kill_at(server: Running, calls: int) -> None:
    while server.counts["calls"] < calls:
        time.sleep(0.01)
    server.process.kill()


STORMS = (errors, crowd, death)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--only", choices=[storm.__name__ for storm in STORMS])
    chosen = parser.parse_args()
    for storm in STORMS:
        if chosen.only in (None, storm.__name__):
            with tempfile.TemporaryDirectory() as folder:
                found = storm(chosen.requests, Path(folder))
            print(found.line(), flush=True)
            assert (found.stored, found.doubled, found.mixed_up) == (chosen.requests, 0, 0)
            assert found.wasted < 0.1 * found.calls


if __name__ == "__main__":
    main()
