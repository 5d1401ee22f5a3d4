"""Which problems each step of rl asks: every level of every family stays in the mix.

A policy trained on the hard levels alone forgets the easy ones within minutes, so groups
(a family's level) take turns by weight and none can have weight zero. The plan is drawn
before training, from seed and problems alone.
"""

import random
from collections.abc import Mapping, Sequence

from distill.errors import UserError, did_you_mean
from distill.records import Problem


def group_of(problem: Problem) -> str:
    """The name a problem's accuracy is counted under: `family/level-N`, or the source alone."""
    return problem.source if problem.level is None else f"{problem.source}/level-{problem.level}"


def plan_prompts(
    problems: Sequence[Problem], steps: int, per_step: int, focus: Mapping[str, float], seed: int
) -> list[list[int]]:
    """Indexes into `problems`, `per_step` for each step; within a group all are asked before any again."""
    members: dict[str, list[int]] = {}
    for index, problem in enumerate(problems):
        members.setdefault(group_of(problem), []).append(index)
    weights = _weights(sorted(members), focus)
    source = random.Random(seed)
    decks: dict[str, list[int]] = {name: [] for name in members}
    credit = dict.fromkeys(weights, 0.0)
    plan: list[list[int]] = []
    for _ in range(steps):
        chosen: list[int] = []
        for _ in range(per_step):
            # Smooth weighted round-robin (nginx): shares are exact in the long run and no group waits longer
            # than its weight says.
            for name, weight in weights.items():
                credit[name] += weight
            name = max(credit, key=credit.__getitem__)
            credit[name] -= sum(weights.values())
            if not decks[name]:
                decks[name] = source.sample(members[name], len(members[name]))
            chosen.append(decks[name].pop())
        plan.append(chosen)
    return plan


def _weights(groups: Sequence[str], focus: Mapping[str, float]) -> dict[str, float]:
    """Weight 1 each, times the focus on the group and on its family."""
    families = sorted({name.split("/")[0] for name in groups})
    for key, weight in focus.items():
        if key not in groups and key not in families:
            known = ", ".join([*families, *groups])
            raise UserError(
                f"focus.{key}: no such family or level{did_you_mean(key, known.split(', '))}; there are {known}"
            )
        if weight <= 0:
            raise UserError(f"focus.{key}: expected a weight above 0, got {weight}; a level left out is forgotten")
    return {
        name: focus.get(name, 1.0) * (focus.get(name.split("/")[0], 1.0) if "/" in name else 1.0) for name in groups
    }
