"""The guard over one run: before the first step, every few steps, and after the last."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.harvest.draw import Judge
from distill.jsonl import read_jsonl
from distill.progress import Progress
from distill.prompts import Chat
from distill.records import Example, Problem
from distill.runs import Report
from distill.sampling.protocols import ModelLoader
from distill.selection import Selection, read_problems, select
from distill.train.guard.record import SETS, Findings, Sat, Traces, read_findings, write_findings
from distill.train.guard.sitting import engine_for, sit
from distill.train.guard.table import StudentGuard
from distill.train.preflight.findings import Finding
from distill.train.rows import EXAMPLES, IGNORED, Rows

SITTING = "sitting_seconds"
"""In the mark of a manifest: what a sitting on target took, mean."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a guard needs besides its table."""

    judge: Judge
    problems: Path
    off_target: Path | None = None


class Watch:
    """Asks, remembers and reports."""

    def __init__(
        self,
        config: StudentGuard,
        given: Given,
        data: Path,
        out: Path,
        *,
        loader: ModelLoader,
        seed: int,
        progress: Progress,
    ) -> None:
        """Raises UserError for problems that are trained on, cannot be judged, or are none."""
        self.config, self.judge, self.out, self.loader, self.seed = config, given.judge, out, loader, seed
        self.progress, self.name = progress, out.name.removesuffix(".partial")
        self.sets = {"target": _chosen(given.problems, config.select, config.n)}
        if given.off_target is not None:
            self.sets["off_target"] = _chosen(given.off_target, config.off_select, config.n)
        trained = {example.problem_id for example in read_jsonl(data / EXAMPLES if data.is_dir() else data, Example)}
        for name, problems in self.sets.items():
            _check_unseen(problems, trained, "problems" if name == "target" else name, data)
            self.judge.prepare(problems)
        self.findings = read_findings(out)
        self.seconds = 0.0
        """CPU seconds of this process spent here, in this attempt."""
        self.sittings: list[float] = []
        """Seconds of each sitting on target, in this attempt."""

    def check(self, base: Any, tokenizer: Any) -> Finding:
        """What `before` would refuse, nothing asked. Raises UserError for a model that our engine cannot run."""
        for problems in self.sets.values():
            engine_for(base, Chat(tokenizer), problems, self.config, loader=self.loader)
        asked = ", ".join(f"{len(problems):,} problems {SETS[name]}" for name, problems in self.sets.items())
        return Finding("guard", f"{asked}, none of them among the examples")

    def before(self, base: Any, tokenizer: Any, rows: Rows, held_out: Rows | None, *, bf16: bool) -> None:
        """Measure the student as it comes, unless an earlier attempt did; say at once what is to be feared."""
        if self.findings is not None:
            return
        begun = time.process_time()
        from distill.train.held_out import fused_head, held_out_loss, spread_rows

        some = spread_rows(rows, self.config.rows)
        with fused_head(base):
            loss = held_out_loss(base, some, bf16=bf16)
            kept = None if held_out is None else held_out_loss(base, held_out, bf16=bf16)
        tokens = sum(label != IGNORED for labels in some.labels for label in labels)
        traces = Traces(
            rows=len(some.labels), loss=loss, length=tokens / len(some.labels), vocabulary=base.config.vocab_size
        )
        self.seconds += time.process_time() - begun
        self.findings = Findings(base=self._sit_all(base, tokenizer), traces=traces, held_out_loss=kept)
        write_findings(self.out, self.findings)
        for line in self.findings.warnings(self.config):
            self.progress.say(f"{self.name}: warning: {line}")

    def due(self, step: int) -> bool:
        """Whether the curve has a held-out accuracy at this step."""
        return self.config.every > 0 and step % self.config.every == 0

    def accuracy(self, model: Any, tokenizer: Any) -> float:
        """On target, of the weights as they are."""
        return self._sit(model, tokenizer, "target").accuracy.value

    def after(self, student: Any, tokenizer: Any) -> None:
        """Measure the trained student."""
        assert self.findings is not None, "measured before"
        self.findings = self.findings.model_copy(update={"student": self._sit_all(student, tokenizer)})
        write_findings(self.out, self.findings)

    def told(self, report: Report) -> Report:
        """A run's report with what was found."""
        assert self.findings is not None, "measured before"
        spent = f"guard: {self.seconds:,.1f} CPU seconds" if self.seconds else "guard: measured by an earlier attempt"
        return report.model_copy(
            update={
                "counts": {**report.counts, **self.findings.counts()},
                "lines": (*report.lines, *self.findings.lines(self.config), spent),
                "marks": {**report.marks, "guard": {**self.findings.mark(self.config), **self._timed()}},
            }
        )

    def _timed(self) -> dict[str, float]:
        """Mean seconds of a sitting on target, where this attempt had any."""
        return {SITTING: round(sum(self.sittings) / len(self.sittings), 3)} if self.sittings else {}

    def _sit_all(self, model: Any, tokenizer: Any) -> dict[str, Sat]:
        return {name: self._sit(model, tokenizer, name) for name in SETS if name in self.sets}

    def _sit(self, model: Any, tokenizer: Any, name: str) -> Sat:
        begun, clock = time.process_time(), time.monotonic()
        sat = sit(
            model,
            Chat(tokenizer),
            self.sets[name],
            self.config,
            loader=self.loader,
            judge=self.judge,
            name=self.name,
            seed=self.seed,
        )
        self.seconds += time.process_time() - begun
        if name == "target":
            self.sittings.append(time.monotonic() - clock)
        return sat


def _chosen(path: Path, selection: Selection, n: int) -> list[Problem]:
    limit = n if selection.limit is None else min(n, selection.limit)
    return select(read_problems(path), selection.model_copy(update={"limit": limit}), path)


def _check_unseen(problems: list[Problem], trained: set[str], key: str, data: Path) -> None:
    seen = [problem.id for problem in problems if problem.id in trained]
    if seen:
        raise UserError(
            f"guard.{key}: {len(seen)} of {len(problems)} problems are trained on (the first is {seen[0]}, in {data}); "
            "expected problems kept out of the examples, of another split say"
        )
