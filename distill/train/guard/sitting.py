"""A sitting: a model in memory, asked problems through the engine, judged by the one judge.

Seeds come from run seed and problem alone: base and student, before a kill and after it, draw with the same numbers.
The engine is made for the sitting and let go of, as it holds the weights once more in the form it computes with.
Draws no random number of torch's, so that a guarded run takes the steps of an unguarded one.
"""

from collections.abc import Sequence
from typing import Any

from distill.errors import UserError
from distill.harvest.draw import Judge
from distill.prompts import Chat
from distill.records import Problem
from distill.sampling.protocols import ModelLoader
from distill.selection import asking
from distill.train.guard.record import Sat
from distill.train.guard.table import StudentGuard
from distill.train.rewards import Rewards, RewardsConfig
from distill.train.rollouts import Roller, Rollouts, engine_over

GUARD_ROUND = 2_000_000
"""The guard's place among the steps, as far as seeds go: no step has it."""


def sit(
    model: Any,
    chat: Chat,
    problems: Sequence[Problem],
    config: StudentGuard,
    *,
    loader: ModelLoader,
    judge: Judge,
    name: str,
    seed: int,
) -> Sat:
    """Ask a model the problems. Raises UserError for one that our engine cannot run."""
    ask, n = asking(config.instruction), config.samples
    training = model.training
    model.eval()  # adapters may drop out
    engine = engine_for(model, chat, problems, config, loader=loader)
    with Rewards(RewardsConfig(), config.max_tokens) as rewards:
        rollouts = Rollouts(engine, chat, judge, rewards, ask, config.params, name, seed)
        rolled = rollouts.roll(problems, n, GUARD_ROUND)
    model.train(training)
    right = [row.correct for row in rolled]
    return Sat(
        problems=tuple(problem.id for problem in problems),
        right=tuple(sum(right[first : first + n]) / n for first in range(0, len(right), n)),
        samples=n,
        length=sum(len(row.sample.ids) for row in rolled) / len(rolled),
        truncated=sum(row.sample.finish == "length" for row in rolled) / len(rolled),
    )


def engine_for(
    model: Any, chat: Chat, problems: Sequence[Problem], config: StudentGuard, *, loader: ModelLoader
) -> Roller:
    """What a sitting samples with. Raises UserError for a model, or a length, that it cannot run."""
    try:
        return engine_over(
            model,
            chat,
            asking(config.instruction),
            problems,
            loader=loader,
            max_tokens=config.max_tokens,
            rows=min(config.slots, len(problems) * config.samples),
            cache_gb=config.cache_gb,
        )
    except UserError as error:
        raise UserError(
            f"guard: the model cannot be asked, max_tokens = {config.max_tokens} behind the longest prompt: {error}"
        ) from error
