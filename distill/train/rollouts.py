"""Rollouts: problems through the engine, completions through the judge, numbers out.

The only place where rl meets the engine. Seeds come from run seed, problem and step, so a
resumed step samples what the interrupted one would have.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from distill.harvest.draw import Judge, problem_seed
from distill.prompts import END_THINK, THINK, Chat, to_trace
from distill.records import Completion, Finish, Params, Problem, SamplerId, Trace
from distill.selection import Ask
from distill.train.mix import group_of


class Sample(Protocol):
    """One sampled completion as token ids, its end token included."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[float]: ...
    @property
    def finish(self) -> Finish: ...


class Roller(Protocol):
    """What rl needs of an engine."""

    def rollout(
        self, prompt_ids: list[list[int]], params: Params, n: int, seeds: list[int]
    ) -> Sequence[Sequence[Sample]]:
        """`n` samples of every prompt, in order."""

    def refresh(self) -> None:
        """Re-read the weights of the model in training."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """One completion of one problem, judged."""

    group: str
    prompt_ids: list[int]
    sample: Sample
    correct: bool
    well_formed: bool


class Rollouts:
    """Samples and judges problems with the current weights."""

    def __init__(
        self, engine: Roller, chat: Chat, judge: Judge, ask: Ask, params: Params, name: str, seed: int
    ) -> None:
        self.engine, self.chat, self.judge, self.ask, self.params = engine, chat, judge, ask, params
        self.name, self.seed = name, seed

    def roll(self, problems: Sequence[Problem], n: int, step: int) -> list[Rolled]:
        """`n` judged completions of each problem, those of one problem together."""
        self.engine.refresh()
        prompts = [self.chat.prompt_ids(self.ask(problem)) for problem in problems]
        seeds = [problem_seed(self.seed, problem.id, step) for problem in problems]
        sampled = self.engine.rollout(prompts, self.params, n, seeds)
        asked = [
            (problem, ids, sample)
            for problem, ids, samples in zip(problems, prompts, sampled, strict=True)
            for sample in samples
        ]
        traces = [self._trace(problem, ids, sample, step, k % n) for k, (problem, ids, sample) in enumerate(asked)]
        pairs = [(problem, trace) for (problem, _, _), trace in zip(asked, traces, strict=True)]
        verdicts = self.judge.judge_many(pairs)
        return [
            Rolled(group_of(problem), ids, sample, verdict.status == "correct", well_formed(trace))
            for (problem, ids, sample), trace, verdict in zip(asked, traces, verdicts, strict=True)
        ]

    def _trace(self, problem: Problem, prompt_ids: list[int], sample: Sample, step: int, index: int) -> Trace:
        completion = Completion(
            text=self.chat.decode(sample.ids),
            finish=sample.finish,
            prompt_tokens=len(prompt_ids),
            completion_tokens=len(sample.ids),
        )
        return to_trace(
            completion,
            think_open=self.chat.think_open,
            id=f"{problem.id}:{step}:{index}",
            problem_id=problem.id,
            sampler=SamplerId(name=self.name, revision=f"step-{step}"),
            params=self.params,
            round=step,
            sample_index=index,
        )


def well_formed(trace: Trace) -> bool:
    """One thought, opened and closed once, then an answer, then a clean end."""
    opened = trace.text.count(THINK) + trace.think_open
    closed = trace.text.count(END_THINK)
    return trace.finish == "stop" and opened == 1 and closed == 1 and bool(trace.reasoning) and bool(trace.answer)


def accuracy(rolled: Iterable[Rolled]) -> float:
    """Share of correct completions."""
    right = [row.correct for row in rolled]
    return sum(right) / len(right)


def by_group(rolled: Iterable[Rolled]) -> dict[str, float]:
    """Accuracy by `family/level-N`."""
    rows = list(rolled)
    return {name: accuracy(row for row in rows if row.group == name) for name in sorted({row.group for row in rows})}
