"""curve.jsonl: what training looked like, one row every few steps.

A resumed step drops the rows after the state it continues from, so that the curve of an
interrupted run is that of an uninterrupted one, seconds apart.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Literal, TypeVar

from distill.jsonl import read_jsonl, write_jsonl
from distill.records import Fraction, Record
from distill.runs import sync
from distill.train.logs import Log, numbers, open_logs

CURVE = "curve.jsonl"


class ExpertLoad(Record):
    """How evenly tokens were spread over the experts since the last row."""

    max_violation: float
    """(most loaded - mean) / mean, mean over layers (MaxVio of arXiv 2408.15664): 0 is even, E/K - 1 the most."""
    dead: Fraction
    """Experts without a token, of all layers."""
    by_layer: Mapping[str, tuple[float, ...]]
    """By layer number: the load of each expert over their mean."""

    @property
    def counts(self) -> dict[str, float]:
        """For a report's numbers."""
        return {"max_violation": round(self.max_violation, 4), "dead_experts": round(self.dead, 4)}

    @property
    def line(self) -> str:
        """For a report."""
        dead, layers = f"{self.dead:.1%} of the experts dead", len(self.by_layer)
        return f"experts: max violation {self.max_violation:.2f} (mean of {layers} layers, 0 is even), {dead}"


class Agreement(Record):
    """Student and teacher at the same positions, means over them."""

    cross_entropy: float
    """The student's, of the token that follows."""
    divergence: float
    """As the step's objective has it."""
    overlap: Fraction
    """Share of the likeliest tokens that both have among theirs (overlap ratio, arXiv 2604.13016)."""
    teacher_mass: float
    """The teacher's probability of these shared tokens."""
    student_mass: float
    """The student's."""
    entropy_gap: float
    """Between the two distributions, absolute, nats."""


class SftPoint(Record):
    """A row of an `sft` curve."""

    step: int
    tokens: int
    """Trained on so far, padding not counted."""
    loss: float
    """Mean over the loss tokens of the steps since the last row."""
    lr: float
    """Of the matrices; the other parameters' has the same shape."""
    seconds: float
    loss_reasoning: float | None = None
    """The same over tokens up to and with `</think>`. None where no thought was trained on."""
    loss_answer: float | None = None
    """Over the others."""
    held_out_loss: float | None = None
    """Mean over the loss tokens of the rows held out. None without such rows, or where no state was saved."""
    held_out_accuracy: Fraction | None = None
    """Of the guard's problems, on target. None without a guard, or between its steps."""
    balance_loss: float | None = None
    """Unweighted, mean over sequences and steps; not in `loss`. None where it has no weight."""
    mtp_loss: float | None = None
    """Of further tokens, unweighted, mean over loss tokens and steps; not in `loss`. None where it has no weight."""
    experts: ExpertLoad | None = None
    """None for a model without experts."""
    agreement: Agreement | None = None
    """`kd`: how near the teacher is. None where there is none."""


class RlLevel(Record):
    """Completions of one level."""

    completions: int
    accuracy: Fraction
    length: float
    """Mean tokens of a completion."""
    entropy: float
    """Mean of -log p over the sampled tokens, in nats: at temperature 1 an estimate of the policy's entropy a token."""
    groups: int
    """Prompts."""
    stuck: int
    """Of these, prompts whose samples all got one reward without all being right."""


class RlPoint(Record):
    """A row of an `rl` curve: one step's rollouts."""

    step: int
    tokens: int
    """Sampled so far."""
    reward: float
    """Mean over completions, all rewards weighted and summed."""
    rewards: Mapping[str, float]
    """Mean of each reward that has a weight, unweighted."""
    accuracy: Fraction
    length: float
    """Mean tokens of a completion."""
    entropy: float
    """As in `by_level`, over all tokens sampled."""
    by_level: Mapping[str, RlLevel]
    """By `family/level-N`, of those sampled in this step."""
    zero_signal_groups: int
    """Prompts whose samples all got the same reward, which teach nothing."""
    kl_sampler_trainer: float | None
    """Mean log-probability gap between sampler and trainer on the tokens trained on: near 0 where they are one policy.
    None without such tokens, or at a temperature other than 1."""
    importance: float | None = None
    """Mean importance weight of the tokens trained on. None where nothing is corrected."""
    truncated_weights: Fraction | None = None
    """Share of these weights that the cap has cut."""
    lr: float
    seconds: float
    balance_loss: float | None = None
    """Unweighted, mean over the sequences trained on. None where it has no weight."""
    experts: ExpertLoad | None = None
    """Over the tokens trained on. None without such tokens, or for a model without experts."""


class OnPolicyPoint(Record):
    """A row of an `on-policy` curve: one step."""

    step: int
    source: Literal["rollouts", "data"]
    """What the student was corrected on."""
    tokens: int
    """Trained on so far, those that carry loss."""
    loss: float
    """Mean over the step's loss tokens: the divergence, or its sampled estimate."""
    agreement: Agreement
    """Before the step's update."""
    lr: float
    seconds: float
    accuracy: Fraction | None = None
    """Of the rollouts. None without a judge, or without rollouts."""
    by_level: Mapping[str, Fraction] | None = None
    """The same by `family/level-N`."""
    length: float | None = None
    """Mean tokens of a completion. None without rollouts."""
    truncated: Fraction | None = None
    """Completions that were cut at `max_tokens`."""
    kl_sampler_trainer: float | None = None
    """Mean log-probability gap between sampler and trainer on the rollouts: near 0, or one of the two is wrong. None
    without rollouts, or at a temperature other than 1."""
    balance_loss: float | None = None
    """Unweighted, mean over sequences. None where it has no weight."""
    experts: ExpertLoad | None = None
    """None for a model without experts."""


P = TypeVar("P", SftPoint, RlPoint, OnPolicyPoint)


class Curve(Generic[P]):
    """The curve of one run folder, continued after `step`."""

    def __init__(self, out: Path, kind: type[P], step: int, log: Sequence[Log] = ()) -> None:
        """`log`: where rows are repeated. UserError where its package is missing."""
        self.path = out / CURVE
        rows = [row for row in read_jsonl(self.path, kind) if row.step <= step] if step else []
        write_jsonl(self.path, rows)
        self.rows: tuple[P, ...] = tuple(rows)
        """Those of earlier attempts."""
        self.last: P | None = rows[-1] if rows else None
        self.logs = open_logs(log, out)
        for row in rows:
            self._repeat(row)
        self.begin()

    def begin(self) -> None:
        """Start the clock, where the last row left it."""
        self.began = time.monotonic() - (self.last.seconds if self.last else 0.0)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the clock: what happens within is not training."""
        stopped = time.monotonic()
        yield
        self.began += time.monotonic() - stopped

    def seconds(self) -> float:
        """Seconds of training so far, earlier attempts included."""
        return round(time.monotonic() - self.began, 3)

    def add(self, row: P) -> None:
        """Append a row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(row.to_json() + "\n")
        self.last = row
        self._repeat(row)

    def _repeat(self, row: P) -> None:
        found = dict(numbers(row.model_dump())) if self.logs else {}
        for sink in self.logs:
            sink.add(row.step, found)

    def close(self) -> None:
        """No row comes any more."""
        for sink in self.logs:
            sink.close()

    def sync(self) -> None:
        """Bring the rows so far onto the disk; called before a state that counts on them."""
        sync(self.path)
