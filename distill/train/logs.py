"""Logs: rows of a training curve repeated for TensorBoard or Weights & Biases, when the recipe's `log` names them.

curve.jsonl stays the record: what is written here is made anew from it by a run that continues, so that it has no gap
and no row twice. Only the recipe asks: no environment variable turns a log on, or makes one speak to the network.
Weights & Biases writes offline into the run folder; `wandb sync` sends it, by hand.
"""

import importlib.util
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from distill.errors import UserError

Log = Literal["tensorboard", "wandb"]


class Sink(Protocol):
    """Somewhere rows go."""

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take a row's numbers."""

    def close(self) -> None:
        """Bring all of it onto the disk."""


def check_logs(asked: Sequence[Log]) -> None:
    """UserError where a log's package is missing."""
    for name in asked:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"log: {name!r} needs the package {name}, which is not installed; run pip install "
                "'distill-toolkit[logs]', or leave it out: curve.jsonl has the same rows"
            )


def open_logs(asked: Sequence[Log], out: Path) -> list[Sink]:
    """Empty logs in a run folder; whatever an earlier attempt wrote there is removed."""
    check_logs(asked)
    return [SINKS[name](out) for name in asked]


def numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a row by name, those of tables in it as `table/name`. Lists and texts are left out."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "step":
            yield f"{prefix}{key}", float(value)


class _TensorBoard:
    def __init__(self, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = _emptied(out / "tensorboard")
        self.writer = SummaryWriter(str(folder))

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, out: Path) -> None:
        import wandb

        _emptied(out / "wandb")
        name = out.name.removesuffix(".partial")
        self.run = wandb.init(project="distill", name=name, dir=str(out), mode="offline")

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        self.run.finish()


SINKS: Mapping[Log, type[_TensorBoard] | type[_Wandb]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
