"""`make dedup-audit`: duplicates planted among a million prompts, found within time and memory.

Builds the corpus of `near_prompts` on disk, reads it back in a process of its own, and counts:
recall by kind of edit, false drops by kind of original and friend, seconds, and the peak of
resident memory of all processes. Exit code 1 when a limit is broken.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.curate.near import NearConfig, near_duplicates
from distill.progress import Progress
from tests.near_prompts import corpus

RECALL, FALSE_DROPS, SECONDS, GIGABYTES = 0.98, 0.001, 600.0, 4.0
"""Least share of planted copies found, largest share of other prompts dropped; the limits of issue 5."""


@dataclass(slots=True)
class Score:
    """What was found, by how the prompts came to be."""

    found: Counter[str] = field(default_factory=Counter)
    planted: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    @property
    def recall(self) -> float:
        """Share of the planted duplicates that were dropped for one of their own question."""
        return self.found.total() / self.planted.total()

    @property
    def false_drops(self) -> float:
        """Share of all prompts that were dropped for one of another question."""
        return self.dropped.total() / self.kept.total()


def scored(answer_N: NDArray[np.int64], questions_N: NDArray[np.int64], hows: list[str]) -> Score:
    """Compare with the truth. Of each question all but the earliest prompt are duplicates, by their edit or, where a
    copy comes first, by the copy's."""
    score = Score()
    first: dict[int, int] = {}
    for number, (question, how) in enumerate(zip(questions_N.tolist(), hows, strict=True)):
        earliest = first.setdefault(question, number)
        repeated = int(answer_N[number])
        score.kept[how] += 1
        score.dropped[how] += questions_N[repeated] != question
        if earliest != number:
            edit = how if how != "original" else hows[earliest]
            score.planted[edit] += 1
            score.found[edit] += repeated != number and questions_N[repeated] == question
    return score


def lines(score: Score) -> Iterator[str]:
    """The tables of a report."""
    for edit in sorted(score.planted):
        yield _row(edit, score.found[edit], score.planted[edit])
    yield f"recall                     {score.recall:.3%} (at least {RECALL:.0%})"
    for how in sorted(score.kept):
        if score.dropped[how] or how.startswith("not"):
            yield _row(how, score.dropped[how], score.kept[how])
    yield f"false drops                {score.false_drops:.4%} (at most {FALSE_DROPS:.1%})"


def _row(name: str, count: int, total: int) -> str:
    return f"  {name:<24} {count:>8,} of {total:>9,}  {count / total:8.3%}"


def _run(folder: Path, workers: int) -> None:
    """The measured process: reads the corpus, writes the answer and what it took."""

    def texts() -> Iterator[str]:
        with (folder / "texts.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    begun = time.monotonic()
    answer_N = near_duplicates(texts(), NearConfig(), workers=workers, progress=Progress("plain"), scratch=folder)
    seconds = time.monotonic() - begun
    np.save(folder / "answer.npy", answer_N)
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {
        "seconds": seconds,
        "cpu": sum(used.ru_utime + used.ru_stime for used in (own, children)),
        "gigabytes": (own.ru_maxrss + workers * children.ru_maxrss) / 2**20,
    }
    (folder / "cost.json").write_text(json.dumps(cost))


def main() -> None:
    """Build, run, score."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--originals", type=int, default=1_000_000)
    options.add_argument("--copies", type=int, default=100_000)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.run is not None:
        _run(chosen.run, chosen.workers)
        return
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        folder = Path(scratch)
        prompts = corpus(chosen.originals, chosen.copies, chosen.seed)
        with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(prompt.text) + "\n" for prompt in prompts)
        questions_N = np.array([prompt.question for prompt in prompts])
        hows = [sys.intern(prompt.how) for prompt in prompts]
        del prompts
        command = [sys.executable, "-m", "tests.audit_near", "--run", scratch, "--workers", str(chosen.workers)]
        subprocess.run(command, check=True)
        score = scored(np.load(folder / "answer.npy"), questions_N, hows)
        cost = json.loads((folder / "cost.json").read_text())
    print(f"{chosen.copies:,} copies among {chosen.originals:,} prompts, {chosen.workers} workers, seed {chosen.seed}")
    print("\n".join(lines(score)))
    print(f"seconds                    {cost['seconds']:.0f} (at most {SECONDS:.0f})")
    print(f"CPU seconds                {cost['cpu']:.0f} of all processes")
    print(f"peak resident memory       {cost['gigabytes']:.2f} GiB in all processes (at most {GIGABYTES:.0f})")
    held = (score.recall >= RECALL, score.false_drops <= FALSE_DROPS)
    if not all((*held, cost["seconds"] <= SECONDS, cost["gigabytes"] <= GIGABYTES)):
        sys.exit("a limit is broken")


if __name__ == "__main__":
    main()
