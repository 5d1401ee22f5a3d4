"""What a procedural family is, and which of its problems are held out.

A family makes problems of any level from a random generator, knows the right chain of
thought for each, and can make a plausible wrong one. Its worlds (how many names,
phrasings, operations) are fields, so a recipe table can make them harder. It also puts a
problem another way: other words for the same numbers, other numbers in the same words.

Held-out problems are chosen by a hash of the prompt (facts of the miniature: 10%), so
train and test are disjoint whatever the seeds, and stay so when the world grows.
The hash is of the whole prompt: a test story may share its numbers with a training story
that has other names. What is held out is the composition, not every sum in it.
"""

import hashlib
import random
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from distill.recipe import StageConfig
from distill.records import Problem, Tests

LIMIT = 20
"""Largest number in any problem or thought: each number from 0 is one token."""
MAX_OPERAND = 9
HELD_OUT_TENTHS = 1
"""Tenths of the hash space that are test problems."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A thought and the answer it ends in, as a sampler would say them."""

    reasoning: str
    answer: str


class Family(StageConfig):
    """One kind of procedural problem. Fields of a subclass are the knobs of its world."""

    name: ClassVar[str]
    learned_levels: ClassVar[int]
    """Levels a small model learns in minutes; deeper ones exist to measure extrapolation."""

    @classmethod
    @abstractmethod
    def words(cls) -> tuple[str, ...]:
        """Every word but the numbers that any setting of the knobs can produce, in a stable order."""

    @abstractmethod
    def generate(self, rng: random.Random, level: int) -> Problem:
        """A problem of `level` steps, its split decided by its prompt."""

    @abstractmethod
    def worked(self, problem: Problem) -> Chain:
        """The right thought and answer."""

    @abstractmethod
    def mistake(self, problem: Problem, rng: random.Random) -> Chain:
        """A plausible wrong chain whose answer the judge calls wrong."""

    @abstractmethod
    def paraphrase(self, problem: Problem, rng: random.Random) -> Problem:
        """The same numbers and steps in other words of this world, drawn at random; may come out as it was."""

    @abstractmethod
    def numbers(self, problem: Problem, rng: random.Random) -> Problem:
        """The same words and kinds of steps with other numbers, drawn at random; may come out as it was."""

    def _problem(self, prompt: str, level: int, chain: Chain, result: str, tests: Tests | None = None) -> Problem:
        """`result` is the gold the judge compares with; code problems carry tests beside it."""
        return Problem(
            id=f"{self.name}-{level}-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}",
            kind="answer" if tests is None else "code",
            prompt=prompt,
            answer=result,
            tests=tests,
            source=self.name,
            split=split_of(prompt),
            level=level,
            solution=chain.reasoning,
        )


def split_of(prompt: str) -> Literal["train", "test"]:
    """Where a prompt belongs, for every family, level and seed alike."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return "test" if int.from_bytes(digest[8:12], "big") % 10 < HELD_OUT_TENTHS else "train"


def nearby(value: int, rng: random.Random) -> int:
    """A wrong result someone could have got: off by one or two, within the numbers there are."""
    return rng.choice([other for other in (value - 2, value - 1, value + 1, value + 2) if 0 <= other <= LIMIT])
