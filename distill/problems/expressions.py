r"""Expressions: computations in the shape of MATH (Hendrycks et al. 2021), answered in a box.

    Compute 7 + 5 - 3 .      ->  7 + 5 = 12 ; 12 - 3 = 9 ;      \boxed{ 9 }

The thought has one line a step, as in stories, naming the operand it takes from the
prompt. (Rewriting all that is left at each step was tried: with equal tokens it did not
reach beyond level 3, docs/problems.md.) Level = number of operators. Every value stays in
0-20, every operand in 1-9.
"""

import random
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from distill.errors import UserError
from distill.problems.family import LIMIT, MAX_OPERAND, Chain, Family, nearby
from distill.problems.stories import TRIES, apply
from distill.records import Problem

VERBS = ("Compute", "Evaluate", "Find", "Simplify", "Calculate", "Determine")
OBJECTS = ("", "the value of", "the result of")
ENDINGS = ("", "exactly", "by hand", "step by step", "with care")

Operator = Literal["+", "-", "*"]
SIGNS = ("+", "-", "*")


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
        return tuple(dict.fromkeys([*phrases, ".", *SIGNS, "=", ";", "\\boxed{", "}"]))

    def generate(self, rng: random.Random, level: int) -> Problem:
        tokens = self._expression(rng, level)
        return self._told(rng, tokens)

    def paraphrase(self, problem: Problem, rng: random.Random) -> Problem:
        return self._told(rng, _tokens(problem.prompt))

    def numbers(self, problem: Problem, rng: random.Random) -> Problem:
        before = _tokens(problem.prompt)
        head, _, tail = problem.prompt.partition(" ".join(before))
        signs = before[1::2]
        for _ in range(TRIES):
            tokens = [str(rng.randint(1, LIMIT if "*" not in signs else MAX_OPERAND))]
            for sign in signs:
                tokens += [sign, str(rng.randint(2 if sign == "*" else 1, MAX_OPERAND))]
            chain, result = work(tokens)
            if result:
                return self._problem(f"{head}{' '.join(tokens)}{tail}", len(signs), chain, result)
        return problem

    def worked(self, problem: Problem) -> Chain:
        return Chain(problem.solution or "", boxed(problem.answer or ""))

    def mistake(self, problem: Problem, rng: random.Random) -> Chain:
        """Goes wrong at one step (sum, operand, sign, or a term lost) and carries on from there."""
        tokens = _tokens(problem.prompt)
        for _ in range(30):
            fault = Fault(rng.randrange(len(tokens) // 2), rng.choice(("sum", "operand", "sign", "lost")), rng)
            chain, result = work(tokens, fault)
            if result not in ("", problem.answer):
                return chain
        wrong = str(nearby(int(problem.answer or ""), rng))
        return Chain(f"{(problem.solution or '').rpartition(' = ')[0]} = {wrong} ;", boxed(wrong))

    def _told(self, rng: random.Random, tokens: list[str]) -> Problem:
        chain, result = work(tokens)
        parts = (
            rng.choice(VERBS[: self.verbs]),
            rng.choice(OBJECTS[: self.objects]),
            " ".join(tokens),
            rng.choice(ENDINGS[: self.endings]),
            ".",
        )
        return self._problem(" ".join(part for part in parts if part), len(tokens) // 2, chain, result)

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


def _tokens(prompt: str) -> list[str]:
    """Numbers and operators of a prompt."""
    return [word for word in prompt.split() if word in SIGNS or word.isdigit()]


def boxed(number: str) -> str:
    """The answer as words of the vocabulary."""
    return f"\\boxed{{ {number} }}"


def _stays_within(operator: str, operand: int, before: int, term: int) -> bool:
    if operator == "*":
        return abs(term * operand) <= LIMIT and 0 <= before + term * operand <= LIMIT
    return 0 <= apply(operator, before + term, operand) <= LIMIT


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and at which step."""

    at: int
    kind: str
    rng: random.Random


def work(tokens: list[str], fault: Fault | None = None) -> tuple[Chain, str]:
    """Thought and result: products first, then from the left. The result is empty when a fault
    leaves the numbers there are."""
    lines: list[str] = []
    for step in range(len(tokens) // 2):
        place = tokens.index("*") if "*" in tokens else 1
        left, sign, right = int(tokens[place - 1]), tokens[place], int(tokens[place + 1])
        kind = fault.kind if fault is not None and fault.at == step else None
        if kind == "lost" and len(tokens) > 3:
            tokens = [*tokens[:place], *tokens[place + 2 :]]
            continue
        if fault is not None and kind == "operand":
            right = max(1, right + fault.rng.choice((-1, 1)))
        if kind == "sign":
            sign = {"+": "-", "-": "+", "*": "+"}[sign]
        value = apply(sign, left, right)
        if fault is not None and kind == "sum":
            value += fault.rng.choice((-2, -1, 1, 2))
        if not (0 <= value <= LIMIT and right <= LIMIT):
            return Chain("", ""), ""
        lines.append(f"{left} {sign} {right} = {value} ;")
        tokens = [*tokens[: place - 1], str(value), *tokens[place + 2 :]]
        if len(tokens) == 1:
            break
    return Chain(" ".join(lines), boxed(tokens[0])), tokens[0]
