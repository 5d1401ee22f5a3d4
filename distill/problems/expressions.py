r"""Expressions: computations in the shape of MATH (Hendrycks et al. 2021), answered in a box.

    Compute 7 + 5 - 3 .      ->  7 + 5 - 3 = 12 - 3 = 9      \boxed{ 9 }

The thought rewrites what is left after each step, so that the next operand always stands
at the front: looking it up by position in the prompt is what small models fail at.
Level = number of operators. Every value stays in 0-20, every operand in 1-9.
"""

import random
from typing import ClassVar, Literal

from pydantic import Field

from distill.errors import UserError
from distill.problems.family import LIMIT, MAX_OPERAND, Chain, Family, nearby
from distill.problems.stories import apply
from distill.records import Problem

VERBS = ("Compute", "Evaluate", "Find", "Simplify", "Calculate", "Determine")
OBJECTS = ("", "the value of", "the result of")
ENDINGS = ("", "exactly", "by hand", "step by step", "with care")

Operator = Literal["+", "-", "*"]


class Expressions(Family):
    """Chains of sums, differences and, when asked for, products."""

    name: ClassVar[str] = "expressions"
    learned_levels: ClassVar[int] = 6

    verbs: int = Field(default=5, ge=1, le=len(VERBS))
    objects: int = Field(default=3, ge=1, le=len(OBJECTS))
    endings: int = Field(default=3, ge=1, le=len(ENDINGS))
    operations: tuple[Operator, ...] = Field(default=("+", "-"), min_length=1)

    @classmethod
    def words(cls) -> tuple[str, ...]:
        phrases = " ".join((*VERBS, *OBJECTS, *ENDINGS)).split()
        return tuple(dict.fromkeys([*phrases, ".", "+", "-", "*", "=", "\\boxed{", "}"]))

    def generate(self, rng: random.Random, level: int) -> Problem:
        tokens = self._expression(rng, level)
        lines = rewritings(tokens)
        parts = (
            rng.choice(VERBS[: self.verbs]),
            rng.choice(OBJECTS[: self.objects]),
            " ".join(tokens),
            rng.choice(ENDINGS[: self.endings]),
            ".",
        )
        prompt = " ".join(part for part in parts if part)
        result = lines[-1][0]
        return self._problem(prompt, level, _chain(lines), result)

    def worked(self, problem: Problem) -> Chain:
        return Chain(problem.solution or "", boxed(problem.answer or ""))

    def mistake(self, problem: Problem, rng: random.Random) -> Chain:
        """Goes wrong in one rewriting (sum, operand, sign, or a term lost) and carries on from there."""
        tokens = (problem.solution or "").split(" = ")[0].split()
        for _ in range(30):
            lines = _gone_wrong(tokens, rng)
            if lines is not None and lines[-1][0] != problem.answer:
                return _chain(lines)
        right = rewritings(tokens)
        return _chain([*right[:-1], [str(nearby(int(problem.answer or ""), rng))]])

    def _expression(self, rng: random.Random, level: int) -> list[str]:
        """Numbers and operators such that every partial result stays within the numbers there are."""
        before, term = 0, rng.randint(1, LIMIT if "*" not in self.operations else MAX_OPERAND)
        tokens = [str(term)]
        for _ in range(level):
            operator, operand = rng.choice(self._continuations(before, term))
            tokens += [operator, str(operand)]
            if operator == "*":
                term *= operand
            else:
                before, term = before + term, operand if operator == "+" else -operand
        return tokens

    def _continuations(self, before: int, term: int) -> list[tuple[Operator, int]]:
        """Operators and operands that can follow when `before` is summed and `term` still grows."""
        operands = range(1, MAX_OPERAND + 1)
        pairs = [(operator, k) for operator in self.operations for k in operands if (operator, k) != ("*", 1)]
        possible = [pair for pair in pairs if _stays_within(*pair, before, term)]
        if not possible:
            raise UserError(f"family expressions: operations {self.operations}: nothing leads on from {before + term}")
        return possible


def boxed(number: str) -> str:
    """The answer as words of the vocabulary."""
    return f"\\boxed{{ {number} }}"


def rewritings(tokens: list[str]) -> list[list[str]]:
    """The expression, then what is left of it after each step: products first, then from the left."""
    lines = [tokens]
    while len(tokens) > 1:
        at = tokens.index("*") if "*" in tokens else 1
        value = apply(tokens[at], int(tokens[at - 1]), int(tokens[at + 1]))
        tokens = [*tokens[: at - 1], str(value), *tokens[at + 2 :]]
        lines.append(tokens)
    return lines


def _stays_within(operator: str, operand: int, before: int, term: int) -> bool:
    if operator == "*":
        return abs(term * operand) <= LIMIT and 0 <= before + term * operand <= LIMIT
    return 0 <= apply(operator, before + term, operand) <= LIMIT


def _chain(lines: list[list[str]]) -> Chain:
    return Chain(" = ".join(" ".join(line) for line in lines), boxed(lines[-1][0]))


def _gone_wrong(tokens: list[str], rng: random.Random) -> list[list[str]] | None:
    """One faulty run of rewritings; None when it leaves the numbers there are."""
    at, kind = rng.randrange(len(tokens) // 2), rng.choice(("sum", "operand", "sign", "lost"))
    lines = [tokens]
    for step in range(len(tokens) // 2):
        tokens = list(rewritings(tokens)[1])
        if step == at:
            tokens = _slip(tokens, kind, rng)
        if not all(word in "+-*" or 0 <= int(word) <= LIMIT for word in tokens):
            return None
        lines.append(tokens)
        if len(tokens) == 1:
            break
    return lines


def _slip(tokens: list[str], kind: str, rng: random.Random) -> list[str]:
    """A rewriting with one fault. With nothing left to miscopy the fault is in the sum."""
    pair = 1 + 2 * rng.randrange(len(tokens) // 2) if len(tokens) > 1 else None
    if kind == "sum" or pair is None:
        return [str(int(tokens[0]) + rng.choice((-2, -1, 1, 2))), *tokens[1:]]
    if kind == "operand":
        return [*tokens[: pair + 1], str(max(1, int(tokens[pair + 1]) + rng.choice((-1, 1)))), *tokens[pair + 2 :]]
    if kind == "sign":
        return [*tokens[:pair], {"+": "-", "-": "+", "*": "+"}[tokens[pair]], *tokens[pair + 1 :]]
    return [*tokens[:pair], *tokens[pair + 2 :]]
