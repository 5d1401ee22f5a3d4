"""Kd: a student learns what its teacher would have said at every token, not only what was said.

Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531) on the log-probabilities that a `logits` step
kept: loss = ce_weight x cross-entropy + kd_weight x divergence, means over loss tokens. All else is sft's:
rows, curriculum, batches, optimizer, states that survive a kill.
Does not ask a teacher (that is `logits`) nor let the student speak (that is `on-policy`). One process.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from distill.jsonl import read_jsonl
from distill.progress import Progress
from distill.runs import Report
from distill.sampling.protocols import LoadedModel, ModelLoader
from distill.train.curve import CURVE, SftPoint
from distill.train.guard.watch import Given
from distill.train.objective import Objective
from distill.train.rows import IGNORED, Rows
from distill.train.sft import sft
from distill.train.sft_table import SftConfig
from distill.train.tokens import check_same_row, check_same_tokens, size

if TYPE_CHECKING:
    from torch import Tensor

    from distill.train.sft_trainer import LeanSft


class KdConfig(SftConfig):
    """Table of a `kd` step."""

    data: str
    """Step or path of a logits run folder."""
    objective: Objective = Objective()
    """Which divergence: `kind`, `beta` of `jsd`, `temperature`."""
    kd_weight: float = Field(default=1.0, ge=0)
    """Weight of the divergence."""
    ce_weight: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy with the examples' own tokens."""

    @model_validator(mode="after")
    def _learns_in_one_process(self) -> Self:
        if self.parts != self.accumulation or self.deepspeed:
            raise ValueError("kd trains in one process: leave out expert_parallel, data_parallel and deepspeed")
        if self.objective.kind == "sampled-reverse-kl":
            raise ValueError(
                "objective.kind: sampled-reverse-kl is about what the student sampled; use it in on-policy"
            )
        if not self.kd_weight:
            raise ValueError("kd_weight: without the divergence this is sft; expected a weight above 0")
        return self


def kd(
    data: Path,
    model: Path,
    out: Path,
    config: KdConfig,
    *,
    loader: ModelLoader,
    seed: int,
    progress: Progress,
    guard: Given | None = None,
) -> Report:
    """Train `model` on what a teacher told of `data`, into the checkpoint folder `out`; continues what it finds."""
    lesson = Distillation(data, config)
    report = sft(data, model, out, config, loader=loader, seed=seed, progress=progress, lesson=lesson, guard=guard)
    last = read_jsonl(out / CURVE, SftPoint)[-1].agreement
    assert last is not None, "every row of kd has it"
    counts = {
        "divergence": round(last.divergence, 4),
        "cross_entropy": round(last.cross_entropy, 4),
        "overlap": round(last.overlap, 4),
    }
    line = (
        f"{config.objective.kind} {last.divergence:.4f}, cross-entropy {last.cross_entropy:.4f}; "
        f"{last.overlap:.1%} of the likeliest tokens shared, {last.student_mass:.1%} of the student's mass on them"
    )
    return report.model_copy(update={"counts": {**report.counts, **counts}, "lines": (*report.lines, line)})


class Distillation:
    """The lesson."""

    stage = "kd"

    def __init__(self, data: Path, config: KdConfig) -> None:
        from distill.train.sidecar import LOGITS, Sidecar

        self.data, self.config = data, config
        self.sidecar = Sidecar(data / LOGITS)
        self.examples: list[str] = []
        self.rows = 0

    def prepare(self, rows: Rows, loaded: LoadedModel) -> None:
        """Raises UserError unless the student reads every row as the teacher did."""
        vocabulary = dict(loaded.tokenizer.get_vocab())
        check_same_tokens(self.sidecar.vocabulary, vocabulary, str(self.data))
        for example, ids, labels in zip(rows.examples, rows.token_ids, rows.labels, strict=True):
            theirs, loss = self.sidecar.row(example)
            where = f"{self.data}: example {example}"
            check_same_row(theirs, ids, where)
            check_same_row(loss, [label != IGNORED for label in labels], f"{where}: where loss is")
        self.examples, self.rows = rows.examples, size(vocabulary)

    def beside(self, batch: Sequence[int]) -> "dict[str, Tensor]":
        told = self.sidecar.told([self.examples[row] for row in batch]).within(self.rows)
        return {"told_ids": told.ids_NK, "told_logprobs": told.logprobs_NK, "told_tail": told.tail_N}

    def trainer(self, **kwargs: Any) -> "LeanSft":
        from distill.train.kd_trainer import LeanKd

        return LeanKd(config=self.config, **kwargs)
