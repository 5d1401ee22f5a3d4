"""Kill training stages with SIGKILL at given instants, then let them finish.

`python tests/training_kills.py JOBS.json` reads a list of jobs `{stage, inputs, out, fields, instants}`
and runs each stage into `out` once an instant, dying there, and once more to its end: `step:N`
dies after N steps, `sync:N` before the N-th file is synced, amid a state. Each attempt is a
forked child, so that everything slow is imported once.
Does not cut the power: what the kernel had in hand is still written.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch

from cli.loading import Folders
from distill.progress import Progress, Task
from distill.records import Problem, Status, Trace, Verdict
from distill.train import grpo_trainer, resume, sft_trainer
from distill.train.rl import RlConfig, rl
from distill.train.sft import SftConfig, sft

SLOW_IMPORTS = (deepspeed, grpo_trainer, sft_trainer)
"""What the stages import when they run; here, once for all children. So is the loader, by loading a model."""


class EvenJudge:
    """Calls completions of an even number of letters right, so that even a random model learns something."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        for _, trace in pairs:
            status: Status = "correct" if len(trace.text) % 2 == 0 else "wrong"
            yield Verdict(trace_id=trace.id, judge_version="even", status=status)


def run(stage: str, inputs: list[Path], out: Path, fields: dict[str, Any]) -> None:
    """One attempt."""
    first, second = inputs
    out.mkdir(exist_ok=True)
    quiet = Progress("quiet")
    if stage == "sft":
        config = SftConfig(data="data", model="model", **fields)
        sft(first, second, out, config, loader=Folders(), seed=0, progress=quiet)
    else:
        rules = RlConfig(model="model", problems="problems", **fields)
        rl(first, second, out, rules, loader=Folders(), judge=EvenJudge(), seed=0, progress=quiet)


def die_at(instant: str) -> None:
    """Arrange for this process to kill itself."""
    kind, number = instant.split(":")
    left = int(number)

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*args, **kwargs)

        return counted

    if kind == "step":
        Task.advance = dying(Task.advance)  # type: ignore[method-assign]
    else:
        resume.sync = dying(resume.sync)


def main() -> None:
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    Folders().load(Path(next(path for path in jobs[0]["inputs"] if Path(path).is_dir())))
    for job in jobs:
        for instant in [*job["instants"], None]:
            child = os.fork()
            if child == 0:
                if instant:
                    die_at(instant)
                run(job["stage"], [Path(path) for path in job["inputs"]], Path(job["out"]), job["fields"])
                os._exit(0)
            _, status = os.waitpid(child, 0)
            expected = signal.SIGKILL if instant else 0
            if status != expected:
                sys.exit(f"{job['stage']}, {instant or 'last attempt'}: status {status}, expected {expected}")


if __name__ == "__main__":
    main()
