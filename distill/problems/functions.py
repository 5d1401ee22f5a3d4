"""Functions: one-line programs in the shape of HumanEval (Chen et al. 2021), judged by running them.

    def f ( x ) : Return x after these steps : add 3 , square it .

The thought repeats each step and grows the expression by it,
`add 3 : ( x + 3 ) ; square it : ( ( x + 3 ) ** 2 ) ;`, and the answer is the body,
`return ( ( x + 3 ) ** 2 )`. (Without the repetition fewer programs are learned from as many
tokens: docs/problems.md.) Level = number of steps. The name of the function and the wording
widen the space without making it harder: only the variable is copied.
"""

import random
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from distill.problems.family import MAX_OPERAND, Chain, Family
from distill.records import Problem, Tests

LETTERS = ("f", "g", "h", "p", "q", "r", "s", "t", "u", "v", "b", "c", "d", "e", "i", "j", "l", "m", "o", "w")
NAMES = (*LETTERS, "fn", "op", "calc", "solve", "score", "total")
VARIABLES = ("x", "y", "n", "a", "k", "z")
INTROS = (
    "Return {x} after these steps :",
    "Take {x} through these steps :",
    "Apply these steps to {x} :",
    "Start from {x} and follow these steps :",
)

Operation = Literal["add", "subtract", "multiply", "square", "double", "negate"]
PHRASINGS: dict[Operation, tuple[str, ...]] = {
    "add": ("add {k}", "increase by {k}", "plus {k}"),
    "subtract": ("subtract {k}", "decrease by {k}", "minus {k}"),
    "multiply": ("multiply by {k}", "times {k}", "scale by {k}"),
    "square": ("square it", "raise to power 2"),
    "double": ("double it",),
    "negate": ("negate it",),
}
SIGNS: dict[Operation, str] = {"add": "+", "subtract": "-", "multiply": "*"}
INPUTS = (-3, 0, 1, 2, 5, 10)
"""Arguments the hidden tests try; a mistake must differ from the truth on one of them."""
MAX_SQUARES = 2
"""Squarings in one program: more make numbers, not problems, larger."""


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a program, and how the problem says it."""

    operation: Operation
    operand: int
    phrase: str


class Functions(Family):
    """Small arithmetic programs told in words."""

    name: ClassVar[str] = "functions"
    learned_levels: ClassVar[int] = 4

    names: int = Field(default=10, ge=1, le=len(NAMES))
    variables: int = Field(default=3, ge=1, le=len(VARIABLES))
    intros: int = Field(default=4, ge=1, le=len(INTROS))
    phrasings: int = Field(default=2, ge=1, le=3)
    """Ways to say each operation."""
    operations: tuple[Operation, ...] = Field(default=("add", "subtract", "multiply", "square", "double"), min_length=1)

    @classmethod
    def words(cls) -> tuple[str, ...]:
        said = [form for forms in PHRASINGS.values() for form in forms]
        phrases = [word for form in (*INTROS, *said) for word in form.split() if "{" not in word]
        marks = ["def", "(", ")", ":", ",", ".", ";", "+", "-", "*", "**", "return"]
        return tuple(dict.fromkeys([*marks, *NAMES, *VARIABLES, *phrases]))

    def generate(self, rng: random.Random, level: int) -> Problem:
        name, variable = rng.choice(NAMES[: self.names]), rng.choice(VARIABLES[: self.variables])
        moves: list[Move] = []
        for _ in range(level):
            moves.append(self._move(rng, moves))
        return self._told(name, variable, rng.choice(INTROS[: self.intros]), moves)

    def paraphrase(self, problem: Problem, rng: random.Random) -> Problem:
        name, variable = rng.choice(NAMES[: self.names]), rng.choice(VARIABLES[: self.variables])
        moves = []
        for move in _read(problem.prompt)[1]:
            form = rng.choice(PHRASINGS[move.operation][: self.phrasings])
            moves.append(Move(move.operation, move.operand, form.format(k=move.operand)))
        return self._told(name, variable, rng.choice(INTROS[: self.intros]), moves)

    def numbers(self, problem: Problem, rng: random.Random) -> Problem:
        variable, before = _read(problem.prompt)
        moves = []
        for move in before:
            low = 2 if move.operation == "multiply" else 1
            operand = rng.randint(low, MAX_OPERAND) if move.operation in SIGNS else 0
            form = next(f for f in PHRASINGS[move.operation] if f.format(k=move.operand) == move.phrase)
            moves.append(Move(move.operation, operand, form.format(k=operand)))
        head = problem.prompt.rpartition(" : ")[0].partition(" : ")[2]
        intro = next(one for one in INTROS if one.format(x=variable) == f"{head} :")
        return self._told(problem.prompt.split()[1], variable, intro, moves)

    def worked(self, problem: Problem) -> Chain:
        return Chain(problem.solution or "", problem.answer or "")

    def mistake(self, problem: Problem, rng: random.Random) -> Chain:
        """A wrong operand, a wrong operation, a step left out or two exchanged; never equal on all inputs."""
        variable, moves = _read(problem.prompt)
        right = [evaluate(moves, value) for value in INPUTS]
        while True:
            wrong = _gone_wrong(moves, rng)
            if [evaluate(wrong, value) for value in INPUTS] != right:
                return _chain(variable, wrong)

    def _told(self, name: str, variable: str, intro: str, moves: list[Move]) -> Problem:
        steps = " , ".join(move.phrase for move in moves)
        prompt = f"def {name} ( {variable} ) : {intro.format(x=variable)} {steps} ."
        chain = _chain(variable, moves)
        tests = Tests(entry_point=name, check=_check(moves), prefix=f"def {name}({variable}):\n    ")
        return self._problem(prompt, len(moves), chain, chain.answer, tests)

    def _move(self, rng: random.Random, before: list[Move]) -> Move:
        options = list(self.operations)
        if sum(move.operation == "square" for move in before) >= MAX_SQUARES and options != ["square"]:
            options.remove("square")
        operation = rng.choice(options)
        operand = rng.randint(2 if operation == "multiply" else 1, MAX_OPERAND) if operation in SIGNS else 0
        phrase = rng.choice(PHRASINGS[operation][: self.phrasings]).format(k=operand)
        return Move(operation, operand, phrase)


def evaluate(moves: list[Move], value: int) -> int:
    """What the right program returns for `value`."""
    for move in moves:
        value = {
            "add": value + move.operand,
            "subtract": value - move.operand,
            "multiply": value * move.operand,
            "square": value * value,
            "double": value * 2,
            "negate": -value,
        }[move.operation]
    return value


def _chain(variable: str, moves: list[Move]) -> Chain:
    expression, lines = variable, []
    for move in moves:
        expression = _grown(expression, move)
        lines.append(f"{move.phrase} : {expression} ;")
    return Chain(" ".join(lines), f"return {expression}")


def _grown(expression: str, move: Move) -> str:
    if move.operation == "square":
        return f"( {expression} ** 2 )"
    if move.operation == "double":
        return f"( {expression} * 2 )"
    if move.operation == "negate":
        return f"( - {expression} )"
    return f"( {expression} {SIGNS[move.operation]} {move.operand} )"


def _read(prompt: str) -> tuple[str, list[Move]]:
    """Variable and steps of a prompt."""
    phrases = prompt.removesuffix(" .").rpartition(" : ")[2].split(" , ")
    return prompt.split()[3], [_read_phrase(phrase) for phrase in phrases]


def _read_phrase(phrase: str) -> Move:
    operand = next((int(word) for word in phrase.split() if word.isdigit()), 0)
    for operation, forms in PHRASINGS.items():
        if phrase in [form.format(k=operand) for form in forms]:
            return Move(operation, operand if operation in SIGNS else 0, phrase)
    raise ValueError(f"{phrase!r} is no step of this family")


def _gone_wrong(moves: list[Move], rng: random.Random) -> list[Move]:
    at, kind = rng.randrange(len(moves)), rng.choice(("operand", "operation", "dropped", "exchanged"))
    move = moves[at]
    if kind == "dropped" and len(moves) > 1:
        return [*moves[:at], *moves[at + 1 :]]
    if kind == "exchanged" and at:
        return [*moves[: at - 1], move, moves[at - 1], *moves[at + 1 :]]
    if kind == "operand" and move.operation in SIGNS:
        return [*moves[:at], _said(move.operation, move.operand % MAX_OPERAND + 1), *moves[at + 1 :]]
    others: list[Operation] = [other for other in SIGNS if other != move.operation]
    return [*moves[:at], _said(rng.choice(others), move.operand or 2), *moves[at + 1 :]]


def _said(operation: Operation, operand: int) -> Move:
    """A step in its plainest words."""
    return Move(operation, operand, PHRASINGS[operation][0].format(k=operand))


def _check(moves: list[Move]) -> str:
    lines = [f"    assert candidate({value}) == {evaluate(moves, value)}" for value in INPUTS]
    return "\n".join(["def check(candidate):", *lines])
