"""Functions: one-line programs in the shape of HumanEval (Chen et al. 2021), judged by running them.

    def f ( x ) : Return x after these steps : add 3 , square it .

The thought grows one expression a step, `( x + 3 ) ; ( ( x + 3 ) ** 2 ) ;`, and the answer
is the body, `return ( ( x + 3 ) ** 2 )`. Level = number of steps. The name of the function
and the wording widen the space without making it harder: only the variable is copied.
"""

import random
from typing import ClassVar, Literal

from pydantic import Field

from distill.problems.family import MAX_OPERAND, Chain, Family
from distill.records import Problem, Tests

NAMES = ("f", "g", "h", "p", "q", "r", "s", "t", "u", "v")
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
SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}
INPUTS = (-3, 0, 1, 2, 5, 10)
"""Arguments the hidden tests try; a mistake must differ from the truth on one of them."""
MAX_SQUARES = 2
"""Squarings in one program: more make numbers, not problems, larger."""


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
        moves: list[tuple[Operation, int]] = []
        phrases = []
        for _ in range(level):
            operation = self._operation(rng, moves)
            operand = rng.randint(2 if operation == "multiply" else 1, MAX_OPERAND) if operation in SIGNS else 0
            moves.append((operation, operand))
            phrases.append(rng.choice(PHRASINGS[operation][: self.phrasings]).format(k=operand))
        intro = rng.choice(INTROS[: self.intros]).format(x=variable)
        prompt = f"def {name} ( {variable} ) : {intro} {' , '.join(phrases)} ."
        chain = _chain(variable, moves)
        tests = Tests(entry_point=name, check=_check(moves), prefix=f"def {name}({variable}):\n    ")
        return self._problem(prompt, level, chain, chain.answer, tests)

    def worked(self, problem: Problem) -> Chain:
        return Chain(problem.solution or "", problem.answer or "")

    def mistake(self, problem: Problem, rng: random.Random) -> Chain:
        """A wrong operand, a wrong operation, a step left out or two exchanged; never equal on all inputs."""
        variable, moves = _moves(problem.solution or "")
        right = [evaluate(moves, value) for value in INPUTS]
        while True:
            wrong = _gone_wrong(moves, rng)
            if wrong and [evaluate(wrong, value) for value in INPUTS] != right:
                return _chain(variable, wrong)

    def _operation(self, rng: random.Random, moves: list[tuple[Operation, int]]) -> Operation:
        squares = sum(operation == "square" for operation, _ in moves)
        if squares < MAX_SQUARES or self.operations == ("square",):
            return rng.choice(self.operations)
        return rng.choice([operation for operation in self.operations if operation != "square"])


def evaluate(moves: list[tuple[Operation, int]], value: int) -> int:
    """What the right program returns for `value`."""
    for operation, operand in moves:
        value = {
            "add": value + operand,
            "subtract": value - operand,
            "multiply": value * operand,
            "square": value * value,
            "double": value * 2,
            "negate": -value,
        }[operation]
    return value


def _chain(variable: str, moves: list[tuple[Operation, int]]) -> Chain:
    expression, lines = variable, []
    for operation, operand in moves:
        expression = _grown(expression, operation, operand)
        lines.append(f"{expression} ;")
    return Chain(" ".join(lines), f"return {expression}")


def _grown(expression: str, operation: Operation, operand: int) -> str:
    if operation == "square":
        return f"( {expression} ** 2 )"
    if operation == "double":
        return f"( {expression} * 2 )"
    if operation == "negate":
        return f"( - {expression} )"
    return f"( {expression} {SIGNS[operation]} {operand} )"


def _moves(solution: str) -> tuple[str, list[tuple[Operation, int]]]:
    """Variable and steps of a worked thought, read back from its last expression."""
    words = solution.removesuffix(" ;").rpartition(" ; ")[2].split()
    variable = next(word for word in words if word.isalpha())
    moves: list[tuple[Operation, int]] = []
    rest = words[words.index(variable) + 1 :]
    opened = words[: words.index(variable)]
    while opened:
        if opened[-1] == "-":
            moves.append(("negate", 0))
            opened, rest = opened[:-2], rest[1:]
            continue
        sign, operand = rest[0], int(rest[1])
        named: dict[str, Operation] = {"+": "add", "-": "subtract", "*": "multiply", "**": "square"}
        moves.append((named[sign], operand))
        opened, rest = opened[:-1], rest[3:]
    return variable, moves


def _gone_wrong(moves: list[tuple[Operation, int]], rng: random.Random) -> list[tuple[Operation, int]]:
    at, kind = rng.randrange(len(moves)), rng.choice(("operand", "operation", "dropped", "exchanged"))
    operation, operand = moves[at]
    if kind == "dropped" and len(moves) > 1:
        return [*moves[:at], *moves[at + 1 :]]
    if kind == "exchanged" and at:
        return [*moves[: at - 1], moves[at], moves[at - 1], *moves[at + 1 :]]
    if kind == "operand" and operation in SIGNS:
        return [*moves[:at], (operation, operand % MAX_OPERAND + 1), *moves[at + 1 :]]
    others: list[Operation] = [other for other in ("add", "subtract", "multiply") if other != operation]
    return [*moves[:at], (rng.choice(others), operand or 2), *moves[at + 1 :]]


def _check(moves: list[tuple[Operation, int]]) -> str:
    lines = [f"    assert candidate({value}) == {evaluate(moves, value)}" for value in INPUTS]
    return "\n".join(["def check(candidate):", *lines])
