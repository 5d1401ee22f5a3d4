"""Rewards: what a completion is worth in `rl`, one number a reward, summed by the weights of the recipe.

Accuracy is the judge's verdict (DeepSeek-R1, arXiv 2501.12948, section 2.2.2); format, readability, language and
repetition are the looks of `distill.judge.style`, in [0, 1]; length is DAPO's soft overlong punishment (arXiv
2503.14476, equation 13), in [-1, 0]. A style is looked at only where it has a weight. Long completions are looked at
by processes of their own while the judge is at work. No learned reward model.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distill.curate.processes import spawned
from distill.judge.style.form import form
from distill.judge.style.language import language
from distill.judge.style.prose import thought_and_answer
from distill.judge.style.readability import readability
from distill.judge.style.repetition import repetition
from distill.records import Problem, Trace, Verdict

POOLED = 20_000
"""Characters of a step from which on processes look at them. A text of 5,911 characters took 29 ms for its language,
1.5 and 1.9 for readability and repetition; one of 120, whose question has a language to find too, took 15."""


class RewardsConfig(BaseModel):
    """Weights: a completion's reward is the weighted sum. One that is 0 is neither asked for nor told."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    accuracy: float = Field(default=1.0, ge=0)
    """1 for what the judge calls correct, else 0."""
    format: float = Field(default=0.0, ge=0)
    """Share of the checks of form passed: one closed thought, one answer, a clean end."""
    readability: float = Field(default=0.0, ge=0)
    """Whether a person could read it; each flaw halves or quarters it."""
    language: float = Field(default=0.0, ge=0)
    """Share of the words in the language of the problem."""
    repetition: float = Field(default=0.0, ge=0)
    """1 where nothing is said over and over, falling with loops and sentences or phrases said again."""
    length: float = Field(default=0.0, ge=0)
    """0 up to `max_tokens` less `overlong`, then falling in a straight line to -1 at `max_tokens`."""
    overlong: float = Field(default=0.2, gt=0, le=1)
    """Share of `max_tokens`, at its end, over which `length` falls. DAPO: 4,096 of 20,480 tokens."""

    @model_validator(mode="after")
    def _rewards_something(self) -> Self:
        if not self.weights:
            raise ValueError("every weight is 0: nothing would be learned")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Of the rewards that have one, in a fixed order."""
        return {name: getattr(self, name) for name in ("accuracy", *LOOKS, "length") if getattr(self, name)}


Look = Callable[[Trace, str], float]
LOOKS: Mapping[str, Look] = {
    "format": lambda trace, question: form(trace.text, trace.finish, think_open=trace.think_open).score,
    "readability": lambda trace, question: readability(*_parts(trace)).score,
    "language": lambda trace, question: language(*_parts(trace), question).score,
    "repetition": lambda trace, question: repetition(*_parts(trace)).score,
}


def _parts(trace: Trace) -> tuple[str, str]:
    return thought_and_answer(trace.text, think_open=trace.think_open)


def overlong_punishment(tokens: int, max_tokens: int, overlong: float) -> float:
    """DAPO, equation 13, with L_cache = `overlong` x L_max."""
    cache = overlong * max_tokens
    return max(-1.0, min(0.0, (max_tokens - cache - tokens) / cache))


class Rewards:
    """Rewards of one run's completions. Used in a `with`, which ends its processes."""

    def __init__(self, config: RewardsConfig, max_tokens: int) -> None:
        self.config, self.max_tokens = config, max_tokens
        self.weights = config.weights
        self.looks = tuple(name for name in LOOKS if name in self.weights)
        self._workers = len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None
        self._open = ExitStack()

    def __enter__(self) -> "Rewards":
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def begin(self, asked: Sequence[tuple[Problem, Trace]]) -> "Callable[[Sequence[Verdict]], list[dict[str, float]]]":
        """Start looking at completions; the result, given their verdicts, is the rewards of each by name."""
        pairs = [(trace, problem.prompt) for problem, trace in asked]
        characters = sum(len(trace.text) for trace, _ in pairs)
        if not self.looks or self._workers == 1 or characters < POOLED:
            seen: Iterator[list[float]] | None = None
        else:
            seen = self._looking(pairs)
        return partial(self._finish, pairs, seen)

    def total(self, rewards: Mapping[str, float]) -> float:
        """The weighted sum."""
        return sum(weight * rewards[name] for name, weight in self.weights.items())

    def _finish(
        self, pairs: Sequence[tuple[Trace, str]], seen: Iterator[list[float]] | None, verdicts: Sequence[Verdict]
    ) -> list[dict[str, float]]:
        looked = seen if seen is not None else (look_at(pair, self.looks) for pair in pairs)
        found = []
        for (trace, _), verdict, scores in zip(pairs, verdicts, looked, strict=True):
            rewards = {"accuracy": float(verdict.status == "correct")} | dict(zip(self.looks, scores, strict=True))
            rewards["length"] = overlong_punishment(trace.completion_tokens, self.max_tokens, self.config.overlong)
            found.append({name: rewards[name] for name in self.weights})
        return found

    def _looking(self, pairs: Sequence[tuple[Trace, str]]) -> Iterator[list[float]]:
        """Looks under way in the pool, in order."""
        if self._pool is None:
            self._pool = self._open.enter_context(spawned(self._workers))
        size = -(-len(pairs) // (4 * self._workers))
        parts = [pairs[first : first + size] for first in range(0, len(pairs), size)]
        going: list[Future[list[list[float]]]] = [self._pool.submit(look_at_all, part, self.looks) for part in parts]
        return (scores for future in going for scores in future.result())


def look_at(pair: tuple[Trace, str], looks: Sequence[str]) -> list[float]:
    """Scores of one completion. `pair`: it and the problem's text."""
    return [LOOKS[name](*pair) for name in looks]


def look_at_all(pairs: Sequence[tuple[Trace, str]], looks: Sequence[str]) -> list[list[float]]:
    """The same of several, for a process of the pool."""
    return [look_at(pair, looks) for pair in pairs]
