"""Memory: solutions already verified, shown as worked examples before problems that stay unsolved.

A bounded external memory (retrieved demonstrations as in Liu et al. 2021, arXiv 2101.06804,
with solutions the sampler itself found). One solution a problem, the shortest; of more problems than
there is room for, those with the smallest hashes, so that what is remembered does not
depend on the order it was found in. Near is near in wording (`distill.simhash`).
Only training problems are remembered, and none is shown before itself or its own copy.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pydantic import ConfigDict, Field

from distill.harvest.job import problem_seed
from distill.harvest.standing import Drawn, Standings
from distill.prompts import join_thought
from distill.records import Message, Problem, Record, Trace
from distill.simhash import BITS, sketch


class MemoryConfig(Record):
    """Show verified solutions of like problems before a problem none of whose samples was verified."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    max_tokens: int = Field(gt=0)
    """Longest all examples of a prompt may be together, in the sampler's tokens, their problems included."""
    shown: int = Field(default=2, gt=0)
    """Examples before a problem."""
    size: int = Field(default=1000, gt=0)
    """Solutions remembered."""
    max_distance: float = Field(default=0.5, gt=0.0, le=1.0)
    """Farthest problem whose solution is shown, as share of differing sketch bits; unrelated texts stand at 0.5."""


@dataclass(frozen=True, slots=True)
class _Known:
    problem: Problem
    row: Drawn


class Memory:
    """Verified solutions by the wording of their problems."""

    def __init__(self, config: MemoryConfig, now: Standings) -> None:
        self.config = config
        training = (problem for problem in now.problems.values() if problem.split == "train")
        found = (_Known(problem, row) for problem in training if (row := _shortest(now.verified(problem.id))))
        kept = heapq.nsmallest(
            config.size, found, key=lambda known: (problem_seed(0, known.problem.id), known.problem.id)
        )
        self._known = kept
        self._sketches_K = np.array([sketch(known.problem.prompt) for known in kept], np.uint64)  # K known problems

    def recall(self, problem: Problem) -> tuple[str, ...]:
        """Ids of the traces to show before a problem, the nearest last; empty where nothing is near enough."""
        if not self._known:
            return ()
        apart_K = np.bitwise_count(self._sketches_K ^ np.uint64(sketch(problem.prompt))) / BITS
        chosen: list[str] = []
        room = self.config.max_tokens
        for place in np.argsort(apart_K, kind="stable"):
            known = self._known[place]
            tokens = known.row.prompt_tokens + known.row.tokens
            if apart_K[place] > self.config.max_distance or len(chosen) == self.config.shown:
                break
            if not _same(known.problem, problem) and known.problem.kind == problem.kind and tokens <= room:
                chosen.append(known.row.trace_id)
                room -= tokens
        return tuple(reversed(chosen))


def worked(problem: Message, trace: Trace) -> tuple[Message, Message]:
    """An example as two turns."""
    return problem, Message(role="assistant", content=said(trace))


def said(trace: Trace) -> str:
    """A trace as the assistant's turn, its think block whole."""
    return trace.text if trace.answer is None else join_thought(trace.reasoning, trace.answer)


def _shortest(rows: Iterable[Drawn]) -> Drawn | None:
    whole = (row for row in rows if row.finish == "stop")
    return min(whole, key=lambda row: (row.tokens, row.trace_id), default=None)


def _same(a: Problem, b: Problem) -> bool:
    return a.id == b.id or a.prompt.lower().split() == b.prompt.lower().split()
