"""What the guard found, kept in guard.json of the run folder, and what follows from it.

Written before the first step and again after the last, so that a resumed run asks no base twice and reports what an
uninterrupted one would. Differences are paired: the same problems, the same seeds, 95% intervals over problems.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from distill.intervals import Interval, mean_interval, paired_difference
from distill.records import Fraction, Record
from distill.runs import write_durably
from distill.train.guard.table import StudentGuard

GUARD = "guard.json"
SETS: Mapping[str, str] = {"target": "on target", "off_target": "off target"}
"""Sets of problems, and how a report calls them."""
GAP = "small-model learnability gap, arXiv 2502.12143; LIMO#15"
REMEDY = (
    "shorter traces, a mix with short ones, or those of a smaller teacher suit a small student better; train on and "
    "compare with its base, or set guard.{key}"
)


class Sat(Record):
    """One set of problems, sat by one model."""

    problems: tuple[str, ...]
    """Ids, in the order asked."""
    right: tuple[float, ...]
    """Share of right completions of each."""
    samples: int
    """Completions of each."""
    length: float
    """Mean tokens of a completion."""
    truncated: Fraction
    """Completions that were cut."""

    @property
    def accuracy(self) -> Interval:
        """With its interval over problems."""
        return mean_interval(self.right)


class Traces(Record):
    """A sample of the training rows, read by the student before its first step."""

    rows: int
    loss: float
    """Mean over loss tokens, nats."""
    length: float
    """Mean loss tokens of a row."""
    vocabulary: int
    """Tokens the student knows."""

    @property
    def perplexity(self) -> float:
        """Of the loss tokens; that of 700 nats where there are more, beyond which no float reaches."""
        return math.exp(min(self.loss, 700.0))

    @property
    def untrained(self) -> bool:
        """Whether the student begins from nothing: as good as every token would do."""
        return self.perplexity >= self.vocabulary / 2


class Findings(Record):
    """All of it."""

    base: Mapping[str, Sat]
    """By set."""
    traces: Traces
    held_out_loss: float | None
    """Of the rows kept out of training, before it. None without such rows."""
    student: Mapping[str, Sat] | None = None
    """After training; None before."""

    def warnings(self, config: StudentGuard) -> list[str]:
        """Why the traces may be beyond the student, a line each."""
        if self.traces.untrained:
            return []
        sat, traces = self.base["target"], self.traces
        found = []
        if sat.accuracy.value < config.least_pass_rate:
            found.append(
                (
                    "least_pass_rate",
                    f"it has {sat.accuracy.value:.1%} of {sat.accuracy.n} problems right, expected "
                    f"{config.least_pass_rate:.1%}",
                )
            )
        if traces.perplexity > config.most_perplexity:
            found.append(
                (
                    "most_perplexity",
                    f"their perplexity to it is {traces.perplexity:.2f}, expected at most {config.most_perplexity:g}",
                )
            )
        if traces.length > config.most_length * sat.length:
            found.append(
                (
                    "most_length",
                    f"they are {traces.length / sat.length:.1f} times as long as its own completions, expected at most "
                    f"{config.most_length:g}",
                )
            )
        return [f"traces may be beyond this student: {why} ({GAP}); {REMEDY.format(key=key)}" for key, why in found]

    def differences(self) -> Iterator[tuple[str, Interval, Interval, Interval]]:
        """Set, base, student, and student - base."""
        for name, after in (self.student or {}).items():
            before = self.base[name]
            assert before.problems == after.problems, "the same problems"
            yield name, before.accuracy, after.accuracy, paired_difference(after.right, before.right)

    def lines(self, config: StudentGuard) -> list[str]:
        """For a report."""
        sat, traces = self.base["target"], self.traces
        nothing = ", which is that of a student that begins from nothing" if traces.untrained else ""
        lines = [
            f"before: {sat.accuracy.value:.1%} of {sat.accuracy.n} problems right; perplexity of {traces.rows} traces "
            f"{traces.perplexity:.2f}{nothing}; {traces.length:,.0f} tokens a trace, {sat.length:,.0f} a completion"
        ]
        if self.held_out_loss is not None:
            lines.append(f"before: loss of the held-out rows {self.held_out_loss:.4f}")
        lines += [f"warning: {line}" for line in self.warnings(config)]
        for name, before, after, gain in self.differences():
            lines.append(
                f"{SETS[name]}: {after.value:.1%}, its base {before.value:.1%}: {100 * gain.value:+.1f} points "
                f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f}, n {gain.n}), {_SAID[verdict(gain)]}"
            )
        return lines

    def counts(self) -> dict[str, float]:
        """For a report's numbers."""
        counts = {"perplexity_before": round(self.traces.perplexity, 4)}
        for name, before, after, gain in self.differences():
            prefix = "" if name == "target" else f"{name}_"
            counts |= {
                f"{prefix}accuracy_before": round(before.value, 4),
                f"{prefix}accuracy_after": round(after.value, 4),
                f"{prefix}accuracy_gain": round(gain.value, 4),
            }
        return counts

    def mark(self, config: StudentGuard) -> dict[str, Any]:
        """For a manifest."""
        compared = {
            name: {
                "base": round(before.value, 6),
                "student": round(after.value, 6),
                "difference": round(gain.value, 6),
                "low": round(gain.low, 6),
                "high": round(gain.high, 6),
                "n": gain.n,
                "verdict": verdict(gain),
            }
            for name, before, after, gain in self.differences()
        }
        return {
            **compared,
            "worse": [name for name, row in compared.items() if row["verdict"] == "worse"],
            "perplexity": round(self.traces.perplexity, 4),
            "warnings": self.warnings(config),
        }


Verdict = Literal["better", "worse", "undecided"]
_SAID: Mapping[Verdict, str] = {
    "better": "better than its base",
    "worse": "WORSE THAN ITS BASE: keep the base, or train it otherwise",
    "undecided": "too few problems to tell it from its base",
}


def verdict(gain: Interval) -> Verdict:
    """What a difference shows at 95%."""
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "undecided"


def read_findings(out: Path) -> Findings | None:
    """What `write_findings` wrote."""
    path = out / GUARD
    return Findings.model_validate_json(path.read_bytes()) if path.is_file() else None


def write_findings(out: Path, findings: Findings) -> None:
    """Into the run folder."""
    write_durably(out / GUARD, findings.to_json())
