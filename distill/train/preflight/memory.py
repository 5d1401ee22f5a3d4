"""Whether a training step fits into the memory that is free, before anything of it is allocated.

What it needs is `distill.train.estimate`'s figure, activations of one pass included. What is free is the GPU's own
count, or on a CPU the least of what the kernel says and what each control group around this process leaves
(`memory.max` in version 2, `memory.limit_in_bytes` in version 1; file pages it could give back count as free). Swap,
a host's memory beside a GPU's and what other processes will take later are not looked at.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distill.errors import UserError
from distill.plan import GB, RESERVED, Hardware
from distill.train.estimate import TFLOPS, UTILIZATION, TrainEstimate, TrainShape, estimate_training
from distill.train.preflight.findings import Finding
from distill.train.schedule import TrainConfig

LARGEST_ACCUMULATION = 64


@dataclass(frozen=True, slots=True)
class Free:
    """Memory that may still be taken."""

    bytes: float
    where: str
    """Who says so."""


def check_memory(
    config: TrainConfig, shape: TrainShape | None, free: Free, *, tokens: int | None = None, loaded: bool = False
) -> Finding:
    """Raises UserError where a step does not fit, naming what would make it fit.

    `tokens`: of the largest pass once rows are known, else the table's. `loaded`: weights are in memory already.
    """
    if shape is None:
        return Finding("memory", "not estimated: the shape of this model is not known", look=True)
    estimate = _estimate(config, shape, free, tokens)
    needed = _needed(estimate, loaded=loaded)
    if needed <= free.bytes * (1 - RESERVED):
        return Finding("memory", f"{needed / GB:.3g} GB estimated", now=f"{free.bytes / GB:.3g} GB free ({free.where})")
    would = []
    for words, other in _remedies(config, planned=tokens is not None):
        less = _needed(_estimate(other, shape, free, tokens), loaded=loaded)
        if less <= free.bytes * (1 - RESERVED):
            would.append(f"{words} ({less / GB:.3g} GB)")
    raise UserError(
        f"{shape.what}: training needs about {needed / GB:.3g} GB (weights {0 if loaded else estimate.weight_gb:.3g}, "
        f"gradients {estimate.gradient_gb:.3g}, optimizer {estimate.optimizer_gb:.3g}, activations "
        f"{estimate.activation_gb:.3g}), {free.bytes / GB:.3g} GB are free ({free.where}), of which "
        f"{1 - RESERVED:.0%} may be used; {_advice(would, planned=tokens is not None)}"
    )


def free_memory(device: str, processes: int = 1, root: Path = Path("/")) -> Free:
    """What one of `processes` may take of a device now: a GPU each, or its share of this machine's memory.

    `root`: where `proc` and `sys` stand.
    """
    if device.startswith("cuda"):
        import torch

        place = int(os.environ.get("LOCAL_RANK", "0"))
        return Free(float(torch.cuda.mem_get_info(place)[0]), torch.cuda.get_device_name(place))
    lines = (root / "proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    least = min([Free(available, "this machine"), *_groups(root)], key=lambda free: free.bytes)
    shared = f", shared by {processes} processes" if processes > 1 else ""
    return Free(least.bytes / processes, least.where + shared)


def _groups(root: Path) -> Iterator[Free]:
    """What every control group with a limit leaves, from this process's own up to the outermost."""
    own = root / "proc/self/cgroup"
    if not own.is_file():
        return
    for line in own.read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = Path(path.lstrip("/"))
        for folder in (top / inner, *(top / parent for parent in inner.parents)):
            left = _left(folder, *names)
            if left is not None:
                yield Free(left, f"control group {folder / names[0]}")


def _left(folder: Path, limit: str, used: str, reclaimable: str) -> float | None:
    """Bytes a group leaves; None without a limit."""
    if not (folder / limit).is_file() or not (folder / used).is_file():
        return None
    most = (folder / limit).read_text().strip()
    if most == "max":
        return None
    stat = (folder / "memory.stat").read_text().splitlines() if (folder / "memory.stat").is_file() else []
    pages = next((int(line.split()[1]) for line in stat if line.split()[0] == reclaimable), 0)
    return float(max(0, int(most) - int((folder / used).read_text()) + pages))


def _estimate(config: TrainConfig, shape: TrainShape, free: Free, tokens: int | None) -> TrainEstimate:
    if tokens is not None:
        config = config.model_copy(update={"tokens_per_batch": tokens * getattr(config, "parts", 1)})
    hardware = Hardware(gpus=1, gpu_gb=free.bytes / GB, bandwidth_tbs=1.0)
    return estimate_training(
        "", "", config, shape, hardware, tflops=TFLOPS, utilization=UTILIZATION, prompt_tokens=0
    )  # of its figures memory alone is read


def _needed(estimate: TrainEstimate, *, loaded: bool) -> float:
    return (estimate.total_gb - (estimate.weight_gb if loaded else 0.0)) * GB


def _remedies(config: TrainConfig, *, planned: bool) -> Iterator[tuple[str, TrainConfig]]:
    """Other tables that need less, mildest first. `planned`: passes are drawn, and more parts would not cut a row."""
    if not config.gradient_checkpointing:
        yield "gradient_checkpointing = true", config.model_copy(update={"gradient_checkpointing": True})
    parts = LARGEST_ACCUMULATION if planned else getattr(config, "accumulation", LARGEST_ACCUMULATION)
    while (parts := parts * 2) <= LARGEST_ACCUMULATION:
        yield f"accumulation = {parts}", config.model_copy(update={"accumulation": parts})
    if config.optimizer != "muon":
        yield "optimizer = 'muon'", config.model_copy(update={"optimizer": "muon"})


def _advice(would: list[str], *, planned: bool) -> str:
    further = "lower max_length with on_long = 'drop'" if planned else "take a smaller model, or a larger machine"
    return f"this would do: {' or '.join(would[:2])}" if would else f"no single key would do: {further}"
