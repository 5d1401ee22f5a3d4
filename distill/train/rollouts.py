"""Rollouts: problems through the engine or a server, completions through the judge, numbers out.

The only place where rl meets who speaks. Seeds come from run seed, problem and step, so a
resumed step samples what the interrupted one would have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from distill.harvest.draw import Judge, problem_seed
from distill.prompts import Chat, to_trace
from distill.records import Completion, Finish, Params, Problem, SamplerId, Trace
from distill.sampling.protocols import ModelLoader
from distill.selection import Ask
from distill.train.curve import RlLevel
from distill.train.mix import group_of
from distill.train.rewards import Rewards


class Sample(Protocol):
    """One sampled completion as token ids, its end token included."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[float]: ...
    @property
    def finish(self) -> Finish: ...


class Roller(Protocol):
    """What rl needs of who speaks: our engine, or `distill.train.served`."""

    def rollout(
        self, prompt_ids: list[list[int]], params: Params, n: int, seeds: list[int]
    ) -> Sequence[Sequence[Sample]]:
        """`n` samples of every prompt, in order."""

    def refresh(self) -> None:
        """Re-read the weights of the model in training."""


def engine_over(
    model: Any,
    chat: Chat,
    ask: Ask,
    problems: Sequence[Problem],
    *,
    loader: ModelLoader,
    max_tokens: int,
    rows: int,
    cache_gb: float,
    weights: Literal["exact", "int8"] = "exact",
) -> Roller:
    """Our engine over a model in memory, for completions of these problems, at most `rows` at a time."""
    from distill.sampling.engine import Engine, room

    capacity = max(len(chat.prompt_ids(ask(problem))) for problem in problems) + max_tokens
    decoder = loader.decoder(model, weights)
    size = room(decoder, capacity=capacity, rows=rows, cache_gb=cache_gb)
    return Engine(decoder, chat, slots=size.slots, capacity=capacity, blocks=size.blocks, device=model.device)


@dataclass(frozen=True, slots=True)
class Rolled:
    """One completion of one problem, judged."""

    group: str
    prompt_ids: list[int]
    sample: Sample
    correct: bool
    rewards: Mapping[str, float]
    """Those that have a weight, by name."""
    reward: float
    """Weighted and summed."""


class Rollouts:
    """Samples and judges problems with the current weights."""

    def __init__(
        self,
        engine: Roller,
        chat: Chat,
        judge: Judge,
        rewards: Rewards,
        ask: Ask,
        params: Params,
        name: str,
        seed: int,
    ) -> None:
        self.engine, self.chat, self.judge, self.rewards, self.ask = engine, chat, judge, rewards, ask
        self.params, self.name, self.seed = params, name, seed

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
        finish = self.rewards.begin(pairs)
        verdicts = list(self.judge.judge_many(pairs))
        return [
            Rolled(group_of(problem), ids, sample, verdict.status == "correct", rewards, self.rewards.total(rewards))
            for (problem, ids, sample), verdict, rewards in zip(asked, verdicts, finish(verdicts), strict=True)
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


def accuracy(rolled: Sequence[Rolled]) -> float:
    """Share of correct completions."""
    return sum(row.correct for row in rolled) / len(rolled)


def mean_rewards(rolled: Sequence[Rolled]) -> dict[str, float]:
    """Mean of each reward by name."""
    return {name: sum(row.rewards[name] for row in rolled) / len(rolled) for name in rolled[0].rewards}


def entropy(rolled: Sequence[Rolled]) -> float:
    """Mean of -log p over the sampled tokens."""
    tokens = sum(len(row.sample.logprobs) for row in rolled)
    return -sum(sum(row.sample.logprobs) for row in rolled) / max(1, tokens)


def by_level(rolled: Sequence[Rolled], n: int) -> dict[str, RlLevel]:
    """What became of each `family/level-N`. Completions of one problem stand together, `n` of them."""
    groups = [rolled[first : first + n] for first in range(0, len(rolled), n)]
    return {
        name: _level([group for group in groups if group[0].group == name])
        for name in sorted({group[0].group for group in groups})
    }


def _level(groups: Sequence[Sequence[Rolled]]) -> RlLevel:
    rows = [row for group in groups for row in group]
    return RlLevel(
        completions=len(rows),
        accuracy=accuracy(rows),
        length=sum(len(row.sample.ids) for row in rows) / len(rows),
        entropy=entropy(rows),
        groups=len(groups),
        stuck=sum(_stuck(group) for group in groups),
    )


def _stuck(group: Sequence[Rolled]) -> bool:
    return len({row.reward for row in group}) == 1 and not all(row.correct for row in group)
