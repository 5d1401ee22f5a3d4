"""A ledger of several gigabytes, verified, counted, looked into and exported: seconds and memory of each command.

`python -m tests.big_ledger 2.2 FOLDER` writes 2.2 GB of traces with their verdicts and problems under FOLDER, runs each
command in a process of its own, prints CSV with the most memory each ever held, and removes what it wrote. FOLDER
needs about twice that room. The memory of a command that stays the same when the ledger doubles is
what "streams" means: give two sizes to see both.
"""

import os
import random
import resource
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from distill.harvest import TRACES, VERDICTS
from distill.jsonl import writing_jsonl
from distill.ledger import SHARD_BYTES
from distill.records import Params, Problem, SamplerId, Trace, Verdict
from distill.runs import write_durably

SAMPLES = 4
WORDS = [
    "so",
    "then",
    "12",
    "+",
    "7",
    "=",
    "19",
    ";",
    "wait",
    ",",
    "the",
    "train",
    "leaves",
    "at",
    "9",
    "and",
    "3",
    "apples",
    "remain",
    "of",
    "them",
    "each",
    "day",
]


def build(folder: Path, size: int) -> int:
    """Sealed shards as `Ledger` writes them, without its fdatasync a batch; returns how many traces."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(400, 1500))) for _ in range(500)]
    count = 0

    def traces() -> Iterator[str]:
        nonlocal count
        written = 0
        while written < size:
            text = texts[count % len(texts)]
            trace = Trace(
                id=f"{zlib.crc32(str(count).encode()):08x}{count:08x}",
                problem_id=f"p{count // SAMPLES}",
                sampler=SamplerId(name="big", revision="1"),
                params=Params(max_tokens=4000, temperature=0.6),
                sample_index=count % SAMPLES,
                reasoning=text,
                answer=str(count),
                text=f"<think>{text}</think>{count}",
                finish="stop",
                prompt_tokens=30,
                completion_tokens=text.count(" "),
            )
            line = trace.to_json()
            written += len(line)
            count += 1
            yield line

    _shards(folder / TRACES, traces())
    rows = (f"{zlib.crc32(str(number).encode()):08x}{number:08x}" for number in range(count))
    _shards(
        folder / VERDICTS,
        (
            Verdict(trace_id=id_, judge_version="4", status="correct" if id_ < "c" else "wrong").to_json()
            for id_ in rows
        ),
    )
    with writing_jsonl(folder / "problems.jsonl") as write:
        for number in range(-(-count // SAMPLES)):
            write(
                Problem(
                    id=f"p{number}",
                    kind="answer",
                    prompt="?",
                    answer="1",
                    source="big",
                    level=number % 5,
                    split="train",
                )
            )
    return count


def _shards(folder: Path, rows: Iterator[str]) -> None:
    import hashlib

    folder.mkdir(parents=True)
    sums, number, row = "", 0, next(rows, None)
    while row is not None:
        path, digest, size = folder / f"{number:04}.jsonl", hashlib.sha256(), 0
        with path.open("wb") as file:
            while row is not None and size < SHARD_BYTES:
                payload = row.encode()
                line = b'{"crc":"%08x",' % zlib.crc32(payload) + payload[1:] + b"\n"
                file.write(line)
                digest.update(line)
                size += len(line)
                row = next(rows, None)
        sums += f"{digest.hexdigest()}  {path.name}\n"
        number += 1
    write_durably(folder / "SHA256SUMS", sums)


def measured(words: list[str]) -> tuple[int, float, float]:
    """Exit code, seconds and peak megabytes of one command in a process of its own."""
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv(sys.executable, [sys.executable, "-W", "ignore", "-m", "cli.main", "traces", *words])
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - begun, used.ru_maxrss / 1024


def main(sizes: list[float], where: Path) -> int:
    """One row a command and size; returns 1 when one of them failed."""
    print("ledger_gb,traces,command,seconds,peak_mb")
    failed = 0
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=where) as name:
            folder = Path(name) / "run"
            count = build(folder, int(size * 1e9))
            last = f"{zlib.crc32(str(count - 1).encode()):08x}{count - 1:08x}"
            out = Path(name) / "export"
            for label, words in (
                ("verify", ["verify", str(folder)]),
                ("stats, no index", ["stats", str(folder)]),
                ("stats", ["stats", str(folder)]),
                ("ls", ["ls", str(folder)]),
                ("show", ["show", last, str(folder)]),
                ("export", ["export", str(folder), "--out", str(out)]),
            ):
                code, seconds, megabytes = measured(words)
                failed += code != 0
                print(f"{size:g},{count},{label},{seconds:.1f},{megabytes:.0f}", flush=True)
            shutil.rmtree(out, ignore_errors=True)
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main([float(word) for word in sys.argv[1:-1]], Path(sys.argv[-1])))
