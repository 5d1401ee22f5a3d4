"""Kill training stages with SIGKILL at given instants, then let them finish.

`python tests/training_kills.py JOBS.json` reads a list of jobs `{stage, inputs, out, fields, instants}`
and runs each stage into `out` once an instant, dying there, and once more to its end: `step:N`
dies after N steps, `sync:N` before the N-th file is synced, amid a state, `event:N` before the N-th thing done to a
file of `out`, `torn:N` the same with half of the file that was written last. Each attempt is a
forked child, so that everything slow is imported once.
Does not cut the power: what the kernel had in hand is still written.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import safetensors.torch
import torch
from transformers import modeling_utils

from cli.loading import Folders
from distill.progress import Progress, Task
from distill.records import Problem, Status, Trace, Verdict
from distill.sampling.engine import EngineSampler
from distill.train import grpo_trainer, kd_trainer, loop, resume, sft_trainer, sidecar
from distill.train.guard.watch import Given
from distill.train.kd import KdConfig, kd
from distill.train.logits import LogitsConfig, logits
from distill.train.on_policy import Taught, on_policy
from distill.train.on_policy_table import OnPolicyConfig
from distill.train.rl import RlConfig, rl
from distill.train.sft import sft
from distill.train.sft_table import SftConfig

SLOW_IMPORTS = (deepspeed, grpo_trainer, kd_trainer, loop, sft_trainer)
"""What the stages import when they run; here, once for all children. So is the loader, by loading a model."""


class EvenJudge:
    """Calls completions of an even number of letters right, so that even a random model learns something."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        for _, trace in pairs:
            status: Status = "correct" if len(trace.text) % 2 == 0 else "wrong"
            yield Verdict(trace_id=trace.id, judge_version="even", status=status)


def reader(folder: Path) -> EngineSampler:
    """A model that scores."""
    loaded = Folders().load(folder)
    return EngineSampler(loaded, Folders().decoder(loaded.model), name=folder.name, slots=1, capacity=1)


def run(stage: str, inputs: list[Path], out: Path, fields: dict[str, Any]) -> None:
    """One attempt."""
    first, second, *others = inputs
    out.mkdir(exist_ok=True)
    quiet = Progress("quiet")
    if stage == "logits":
        sampler = reader(second)
        scores = LogitsConfig(data="data", model="model", **fields)
        logits(first, out, scores, sampler=sampler, chat=sampler.chat, context=64, progress=quiet)
    elif stage == "kd":
        kd(first, second, out, KdConfig(data="d", model="m", **fields), loader=Folders(), seed=0, progress=quiet)
    elif stage == "on-policy":
        sampler = reader(second)
        rules = OnPolicyConfig(model="m", teacher="t", problems="p", data="d", **fields)
        on_policy(
            first,
            out,
            rules,
            problems=others[0],
            data=others[1],
            teacher=Taught(sampler, sampler.chat, 64),
            loader=Folders(),
            judge=EvenJudge(),
            seed=0,
            progress=quiet,
        )
    elif stage == "sft":
        config = SftConfig(data="data", model="model", **fields)
        given = Given(EvenJudge(), others[0], others[0]) if others else None
        sft(first, second, out, config, loader=Folders(), seed=0, progress=quiet, guard=given)
    else:
        rewarded = RlConfig(model="model", problems="problems", **fields)
        rl(first, second, out, rewarded, loader=Folders(), judge=EvenJudge(), seed=0, progress=quiet)


FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
"""What Python tells of files before it does it; torch and safetensors write theirs from outside of it."""


def watch(out: Path, act: Callable[[str, Path], None]) -> None:
    """From now on, tell `act` of everything done to files of `out`, before it is done, and before and after writes."""
    busy = False

    def tell(event: str, path: Any) -> None:
        nonlocal busy
        if busy or isinstance(path, int) or not str(path).startswith(str(out)):
            return
        busy = True
        act(event, Path(str(path)))
        busy = False

    def writing(write: Callable[..., Any], place: int) -> Callable[..., Any]:
        def told(*args: Any, **kwargs: Any) -> Any:
            path = args[place] if len(args) > place else kwargs["filename"]
            tell("write", path)
            made = write(*args, **kwargs)
            tell("written", path)
            return made

        return told

    sys.addaudithook(lambda event, args: tell(event, args[0]) if event in FILE_EVENTS and args else None)
    torch.save = writing(torch.save, 1)
    for module in (safetensors.torch, modeling_utils):
        name = "save_file" if hasattr(module, "save_file") else "safe_save_file"
        setattr(module, name, writing(getattr(module, name), 1))


def die_at(instant: str, out: Path) -> None:
    """Arrange for this process to kill itself."""
    kind, number = instant.split(":")
    left = int(number)
    if kind in ("event", "torn"):
        last: list[Path] = []

        def count(event: str, path: Path) -> None:
            nonlocal left
            left -= 1
            if event == "written":
                last.append(path)
            if left < 0:
                if kind == "torn":
                    os.truncate(last[-1], last[-1].stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        watch(out, count)
        return

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
        resume.sync = sidecar.sync = dying(resume.sync)


def attempt(job: dict[str, Any], prepare: Callable[[], None]) -> int:
    """Run a job in a child; its wait status."""
    child = os.fork()
    if child == 0:
        prepare()
        run(job["stage"], [Path(path) for path in job["inputs"]], Path(job["out"]), job["fields"])
        os._exit(0)
    return os.waitpid(child, 0)[1]


def _nothing() -> None:
    """Live."""


def main() -> None:
    torch.set_num_threads(1)
    sidecar.SHARD_POSITIONS = int(os.environ.get("SHARD_POSITIONS", sidecar.SHARD_POSITIONS))
    jobs = json.loads(Path(sys.argv[1]).read_text())
    Folders().load(Path(next(path for path in jobs[0]["inputs"] if Path(path).is_dir())))
    for job in jobs:
        for instant in [*job["instants"], None]:
            prepare = partial(die_at, instant, Path(job["out"])) if instant else _nothing
            status = attempt(job, prepare)
            expected = signal.SIGKILL if instant else 0
            if status != expected:
                sys.exit(f"{job['stage']}, {instant or 'last attempt'}: status {status}, expected {expected}")


if __name__ == "__main__":
    main()
