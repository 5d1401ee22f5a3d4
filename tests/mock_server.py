"""A chat server that answers at once, in a process of its own, and keeps count of what it said.

Knobs make it fail at random, refuse what is too much, or take its time. The answer to a
prompt says prompt and seed again, so that a mixed-up answer is seen. GET /counts tells how many calls
came, how many of them it failed or refused, and how many whole completions it sent.
"""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

FAULTS = ("500", "502", "429", "503", "drop", "reset", "cut", "page", "fragment", "error")


@dataclass(frozen=True)
class Knobs:
    errors: float = 0.0
    """Share of calls that go wrong, in each of the ways of FAULTS."""
    capacity: int = 0
    """Completions it works on at once before it says 429; 0 for any number."""
    seconds: float = 0.0
    """Longest time a completion takes; the shortest is a quarter of it."""
    honors_n: bool = True
    words: int = 40
    """Length of the thought."""
    seed: int = 0


class Mock(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: "Server") -> None:
        self.server, self.buffer = server, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, gap, rest = self.buffer.partition(b"\r\n\r\n")
            if not gap:
                return
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line[15:])
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            if head.startswith(b"GET"):
                self.say(json.dumps(self.server.counts).encode())
            else:
                self.server.answer(self, rest[:length])

    def say(self, body: bytes, status: str = "200 OK", *, send: int | None = None) -> None:
        if not self.transport.is_closing():
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self.transport.write(head.encode() + body[:send])


class Server:
    """What all connections share."""

    def __init__(self, knobs: Knobs) -> None:
        self.knobs, self.rng, self.working = knobs, random.Random(knobs.seed), 0
        self.counts = {"calls": 0, "failed": 0, "refused": 0, "whole": 0}
        self.thought = "so 7 + 5 = 12 ; " * (knobs.words // 7)

    def answer(self, to: Mock, body: bytes) -> None:
        self.counts["calls"] += 1
        asked = json.loads(body)
        n = asked.get("n", 1) if self.knobs.honors_n else 1
        if self.knobs.capacity and self.working + n > self.knobs.capacity:
            self.counts["refused"] += 1
            to.say(b'{"error": "too much"}', "429 Too Many Requests")
        elif self.rng.random() < self.knobs.errors:
            self.counts["failed"] += 1
            self.fail(to, self.rng.choice(FAULTS), self.whole(asked, n))
        elif self.knobs.seconds:
            self.working += n
            wait = self.knobs.seconds * self.rng.uniform(0.25, 1.0)
            asyncio.get_running_loop().call_later(wait, self.finish, to, asked, n)
        else:
            self.counts["whole"] += n
            to.say(self.whole(asked, n))

    def finish(self, to: Mock, asked: dict[str, Any], n: int) -> None:
        self.working -= n
        self.counts["whole"] += n
        to.say(self.whole(asked, n))

    def whole(self, asked: dict[str, Any], n: int, finish: str | None = "stop") -> bytes:
        said = f"{asked['messages'][-1]['content']} {asked.get('seed', 0)}"
        choices = [
            {
                "index": k,
                "message": {"role": "assistant", "content": f"<think> {self.thought}</think> {said}+{k}"},
                "finish_reason": finish,
            }
            for k in range(n)
        ]
        usage = {
            "prompt_tokens": 9,
            "completion_tokens": n * self.knobs.words,
            "total_tokens": 9 + n * self.knobs.words,
        }
        return json.dumps({"id": "x", "object": "chat.completion", "choices": choices, "usage": usage}).encode()

    def fail(self, to: Mock, fault: str, whole: bytes) -> None:
        if fault.isdigit():
            to.say(b'{"error": "try again"}', f"{fault} Trouble")
        elif fault == "drop":
            to.transport.close()
        elif fault == "reset":
            to.say(whole, send=len(whole) // 2)
            to.transport.abort()
        elif fault == "cut":
            to.say(whole, send=len(whole) // 2)
            to.transport.close()
        elif fault == "page":
            to.say(b"<html>busy</html>")
        elif fault == "fragment":
            to.say(whole.replace(b'"stop"', b"null"))
        else:
            to.say(b'{"error": {"message": "overloaded"}}')


async def serve(knobs: Knobs) -> None:
    server = Server(knobs)
    listening = await asyncio.get_running_loop().create_server(lambda: Mock(server), "127.0.0.1", 0)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


@dataclass(frozen=True)
class Running:
    url: str
    process: subprocess.Popen[str]

    @property
    def counts(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.url}/counts") as answer:
            counts: dict[str, int] = json.load(answer)
        return counts


@contextlib.contextmanager
def mock_server(**knobs: Any) -> Iterator[Running]:
    """One in a process of its own, for as long as the block lasts."""
    settings = json.dumps(asdict(Knobs(**knobs)))
    command = [sys.executable, "-m", "tests.mock_server", settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Running(f"http://127.0.0.1:{int(process.stdout.readline())}/v1", process)
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(Knobs(**json.loads(sys.argv[1]))))
