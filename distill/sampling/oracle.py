"""Oracle: a sampler that knows the answers, and errs on purpose.

Writes the right chain of a procedural problem, or with `error_rate` a plausible wrong one,
so that everything behind a sampler can be run and tested without a model. With `terse_rate`
it jumps to the answer and leaves the thought empty: right, but no example of how to get
there, as in hastily written cold-start data. With `repeat_rate` it says steps of a thought
twice, so that right chains of one problem differ. Token counts are words; there are no token ids
and no log-probabilities. Does not speak about benchmark problems: nobody here knows a
thought for them.
"""

import random
from collections.abc import Iterable, Iterator

from distill.errors import UserError
from distill.problems.families import FAMILIES, family
from distill.problems.variants import base_source
from distill.prompts import join_thought
from distill.records import Completion, Problem, SamplerId, fingerprint
from distill.sampling.protocols import Answered, Request, TokenScores

REVISION = 3
"""Raised when the same problem and seed would give another text."""


class OracleSampler:
    """Speaks about the problems it was given, found by request id. Implements `Sampler`."""

    think_open = False

    def __init__(
        self, problems: Iterable[Problem], *, error_rate: float = 0.0, terse_rate: float = 0.0, repeat_rate: float = 0.0
    ) -> None:
        for key, rate in (("error_rate", error_rate), ("terse_rate", terse_rate), ("repeat_rate", repeat_rate)):
            if not 0.0 <= rate <= 1.0:
                raise UserError(f"oracle: {key}: expected a fraction from 0 to 1, got {rate}")
        self.error_rate, self.terse_rate, self.repeat_rate = error_rate, terse_rate, repeat_rate
        self.problems = {problem.id: problem for problem in problems}
        self.families = {name: family(name) for name in FAMILIES}

    @property
    def identity(self) -> SamplerId:
        rates = [self.error_rate, self.terse_rate, *([self.repeat_rate] if self.repeat_rate else [])]
        return SamplerId(name="oracle", revision=fingerprint([REVISION, *rates]))

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        """One request at a time, in order. Sample k depends on the problem and `seed + k` alone."""
        for request in requests:
            problem = self._problem(request.id)
            yield Answered(request, tuple(self._say(problem, request, k) for k in range(request.n)))

    def score(self, token_ids: list[int], top_k: int) -> TokenScores:
        raise UserError("the oracle has no probabilities to score with; use a model as sampler")

    def score_many(self, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
        """Not possible, as `score`."""
        return (self.score(token_ids, top_k) for token_ids in sequences)

    def _problem(self, id: str) -> Problem:
        if id not in self.problems:
            raise UserError(f"oracle: request {id!r}: no such problem among the {len(self.problems)} it was given")
        problem = self.problems[id]
        if base_source(problem.source) not in self.families:
            raise UserError(
                f"oracle: problem {id}: source {problem.source!r} is no procedural family ({', '.join(self.families)})"
            )
        return problem

    def _say(self, problem: Problem, request: Request, index: int) -> Completion:
        kind = self.families[base_source(problem.source)]
        rng = random.Random(f"oracle/{request.seed + index}/{request.id}")
        errs = rng.random() < self.error_rate
        chain = kind.mistake(problem, rng) if errs else kind.worked(problem)
        reasoning = "" if rng.random() < self.terse_rate else self._repeating(chain.reasoning, rng)
        words = join_thought(reasoning, chain.answer).split()
        cut = len(words) >= request.params.max_tokens  # the end of the turn is a token too
        said = words[: request.params.max_tokens]
        return Completion(
            text=" ".join(said),
            finish="length" if cut else "stop",
            prompt_tokens=sum(len(message.content.split()) for message in request.messages),
            completion_tokens=len(said) + (not cut),
        )

    def _repeating(self, reasoning: str, rng: random.Random) -> str:
        """The thought with some steps said twice; without a rate no lot is drawn, and texts are as ever."""
        if not self.repeat_rate:
            return reasoning
        steps = reasoning.removesuffix(" ;").split(" ; ")
        return " ".join(f"{step} ;" for step in steps for _ in range(1 + (rng.random() < self.repeat_rate)))
