"""Kill a harvest that asks a server in a process of its own, resume it, and count what was asked twice.

`python -m tests.server_kills 100` kills a hundred times. The server writes down every sample it is
asked for, at the moment it is asked. After every kill the parent reads which traces were
acknowledged (below the size of each fdatasync the child told of), and from then on none of those
may be asked for; what was in flight, or answered and not yet synced, may be, and is counted. In the
end the traces must be those of a harvest nobody disturbed.

`--gguf FILE` puts llama.cpp with that model behind the server, which then only writes down and
passes on: fewer and shorter samples, and only ids are compared.
"""

import argparse
import http.server
import json
import os
import random
import signal
import socketserver
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distill.harvest import TRACES, VERDICTS, problem_seed, sample_and_judge
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.records import Params, Trace, Verdict
from distill.sampling.endpoint import EndpointConfig, EndpointSampler
from tests.harvest_kills import PROBLEMS, Comparing, digest, tell_every_sync

CONCURRENCY = 8
SLOWEST = 0.01
"""Seconds the server may take for one answer."""


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Answers at once or passes on; the log is written before anything else."""

    daemon_threads = True
    request_queue_size = 128
    log: Any
    upstream: str


class Handler(http.server.BaseHTTPRequestHandler):
    """One chat completion, a function of the seed alone."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # the client was killed while it asked
            self.close_connection = True
            return
        ask = json.loads(body)
        os.write(self.server.log, f"{ask['seed']} {ask.get('n', 1)}\n".encode())
        if self.server.upstream:
            passed = urllib.request.Request(self.server.upstream + "/chat/completions", body, dict(JSON))
            with urllib.request.urlopen(passed) as response:
                self._answer(response.read())
            return
        time.sleep(random.random() * SLOWEST)
        choices = [self._choice(ask, ask["seed"] + k) for k in range(ask.get("n", 1))]
        usage = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
        self._answer(json.dumps({"choices": choices, "usage": usage}).encode())

    def _choice(self, ask: dict[str, Any], seed: int) -> dict[str, Any]:
        rng = random.Random(seed)
        said = int(ask["messages"][0]["content"].split()[0]) + (1 if rng.random() < 0.75 else 2)
        message = {"role": "assistant", "content": f"<think>so{' …' * rng.randrange(40)}</think>{said}"}
        return {"index": 0, "message": message, "finish_reason": "stop"}

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """The log is ours."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client was killed
            self.close_connection = True


JSON = {"Content-Type": "application/json"}


def serve(log: Path, upstream: str) -> None:
    """Until killed; prints the port first."""
    server = Server(("127.0.0.1", 0), Handler)
    server.log, server.upstream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), upstream
    print(server.server_address[1], flush=True)
    server.serve_forever()


class Harvests:
    """Harvests against one server, in children that may be killed."""

    def __init__(self, url: str, log: Path, problems: int, samples: int, max_tokens: int, concurrency: int) -> None:
        self.log, self.samples, self.params = log, samples, Params(max_tokens=max_tokens)
        self.problems = PROBLEMS[:problems]
        self.config = EndpointConfig(url=url, model="m", revision="1", concurrency=concurrency)
        self.seeds = {
            problem_seed(0, problem.id) + index: (problem.id, index)
            for problem in self.problems
            for index in range(samples)
        }
        assert len(self.seeds) == problems * samples, "every sample must have a seed of its own"

    def once(self, out: Path) -> None:
        """Harvest whatever `out` lacks."""
        rows = sample_and_judge(
            self.problems,
            out,
            self.params,
            self.samples,
            sampler=EndpointSampler(self.config),
            judge=Comparing(),
            seed=0,
            progress=Progress("quiet"),
        )
        for _ in rows:
            pass

    def run(self, out: Path, kill_after: float | None) -> tuple[bool, dict[Path, int]]:
        """One attempt in a child; was it killed, and what had it synced?"""
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(told)
            tell_every_sync(tell)
            self.once(out)
            os._exit(0)
        os.close(tell)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        with os.fdopen(told) as lines:
            synced = dict(line.split() for line in lines if line.endswith("\n"))
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or status == 0, "the harvest failed by itself"
        return os.WIFSIGNALED(status), {Path(name): int(size) for name, size in synced.items()}

    def asked(self) -> list[tuple[str, int]]:
        """Every sample the server was ever asked for, in order."""
        found = []
        for line in self.log.read_text().splitlines():
            seed, count = map(int, line.split())
            found += [self.seeds[seed + k] for k in range(count)]
        return found

    def settled(self) -> int:
        """How many samples were asked for, once no more come: a killed client's last words may still be on the way."""
        before = -1
        while (now := len(self.asked())) != before:
            before = now
            time.sleep(0.03)
        return now


def acknowledged(prefixes: dict[Path, tuple[int, str]]) -> set[tuple[str, int]]:
    """The samples whose traces lie below what was synced."""
    found = set()
    for path, (size, _) in prefixes.items():
        if path.parent.name == TRACES:
            for line in path.read_bytes()[:size].splitlines():
                row = json.loads(line)
                found.add((row["problem_id"], row["sample_index"]))
    return found


def main(kills: int, harvests: Harvests, folder: Path, *, texts: bool) -> int:
    """Kill that often; returns 1 when anything was lost, doubled or asked again after it was acknowledged."""
    rng = random.Random(0)
    whole = folder / "whole"
    begun = time.monotonic()
    harvests.run(whole, None)
    seconds = time.monotonic() - begun
    wanted = {trace.id: trace.text for trace in read_ledger(whole / TRACES, Trace)}
    done = rounds = lost = doubled = again = repeated = 0
    while done < kills:
        rounds += 1
        out = folder / str(rounds)
        first = harvests.settled()
        prefixes: dict[Path, tuple[int, str]] = {}
        running = True
        while running and done < kills:
            before, safe = harvests.settled(), acknowledged(prefixes)
            running, synced = harvests.run(out, rng.uniform(0.0, 1.1 * seconds))
            done += running
            harvests.settled()
            again += sum(sample in safe for sample in harvests.asked()[before:])
            for path, size in synced.items():
                if size:
                    lost += path.stat().st_size < size
                    prefixes[path] = size, digest(path, size)
        safe, before = acknowledged(prefixes), harvests.settled()
        harvests.run(out, None)
        again += sum(sample in safe for sample in harvests.asked()[before:])
        twice = Counter(harvests.asked()[first:])
        repeated += sum(twice.values()) - len(twice)
        lost += sum(digest(path, size) != sha for path, (size, sha) in prefixes.items())
        found = {trace.id: trace.text for trace in read_ledger(out / TRACES, Trace)}
        same = found == wanted if texts else found.keys() == wanted.keys()
        lost += 0 if same else len(wanted.keys() ^ found.keys()) or 1
        for name, record, key in ((TRACES, Trace, "id"), (VERDICTS, Verdict, "trace_id")):
            ids = [getattr(row, key) for row in read_ledger(out / name, record)]
            doubled += len(ids) - len(set(ids))
            lost += len(wanted.keys() - set(ids))
    asked = len(harvests.asked())
    print(f"{done} kills in {rounds} harvests of {len(wanted):,} traces, {asked:,} samples asked of the server:")
    print(f"{lost} acknowledged traces lost, {doubled} doubled, {again} acknowledged ones asked again")
    print(f"{repeated:,} samples in flight or not yet synced at a kill were asked again, {repeated / done:.1f} a kill")
    return int(bool(lost or doubled or again))


def run(kills: int, gguf: Path | None) -> int:
    """Start what is needed, kill, stop it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = ""
        if gguf is not None:
            from students.llama_server import llama_server

            upstream = stack.enter_context(llama_server(gguf, model="m", context=256))
        log = folder / "asked"
        log.touch()
        command = [sys.executable, "-m", "tests.server_kills", "--serve", str(log), upstream]
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(server.kill)
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        size = {"problems": 60, "samples": 4, "max_tokens": 100, "concurrency": CONCURRENCY}
        if gguf is not None:
            size = {"problems": 15, "samples": 2, "max_tokens": 4, "concurrency": 4}
        return main(kills, Harvests(url, log, **size), folder, texts=gguf is None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=100)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--serve", nargs=2)
    given = parser.parse_args()
    if given.serve:
        serve(Path(given.serve[0]), given.serve[1])
    else:
        sys.exit(run(given.kills, given.gguf))
