"""Stories: word problems in the shape of GSM8K (Cobbe et al. 2021), small enough to learn in minutes.

    Mia has 7 coins . Tom finds 5 more coins . Ana loses 3 coins . How many coins now ?

The thought has one line a step, `7 + 5 = 12 ; 12 - 3 = 9 ;`, and the answer is the bare
number. Level = number of steps. All values stay in 0-20, all operands in 1-9.
"""

import random
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import Field

from distill.errors import UserError
from distill.problems.family import LIMIT, MAX_OPERAND, Chain, Family, nearby
from distill.records import Problem

NAMES = ("Mia", "Tom", "Ana", "Ben", "Eva", "Leo", "Zoe", "Sam", "Ida", "Max", "Amy", "Jon", "Lia", "Ned", "Uma", "Roy")
ITEMS = ("coins", "books", "apples", "cards", "shells", "pens", "stones", "cups", "eggs", "keys", "nuts", "toys")

Operation = Literal["add", "subtract", "double", "halve", "triple"]
PHRASINGS: dict[Operation, tuple[str, ...]] = {
    "add": (
        "{name} finds {k} more {item} .",
        "{name} buys {k} {item} .",
        "{name} brings {k} {item} .",
        "{name} adds {k} {item} .",
        "{name} wins {k} {item} .",
    ),
    "subtract": (
        "{name} loses {k} {item} .",
        "{name} gives away {k} {item} .",
        "{name} sells {k} {item} .",
        "{name} drops {k} {item} .",
        "{name} breaks {k} {item} .",
    ),
    "double": ("{name} doubles the {item} .",),
    "halve": ("{name} halves the {item} .",),
    "triple": ("{name} triples the {item} .",),
}
FIXED: dict[Operation, tuple[str, int]] = {"double": ("*", 2), "halve": ("/", 2), "triple": ("*", 3)}
"""Operations whose operand is in the verb."""


TRIES = 1_000
"""Draws of numbers for one story before it is given back as it was."""


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a story: who does it, in which words, and what it does to the number."""

    name: str
    form: str
    sign: str
    operand: int


class Stories(Family):
    """Stories of things found, lost and doubled."""

    name: ClassVar[str] = "stories"
    learned_levels: ClassVar[int] = 6

    names: int = Field(default=8, ge=2, le=len(NAMES))
    items: int = Field(default=6, ge=1, le=len(ITEMS))
    phrasings: int = Field(default=3, ge=1, le=5)
    """Ways to say `add`, and to say `subtract`."""
    operations: tuple[Operation, ...] = Field(default=("add", "subtract", "double"), min_length=1)

    @classmethod
    def words(cls) -> tuple[str, ...]:
        said = [word for forms in PHRASINGS.values() for form in forms for word in form.split() if "{" not in word]
        asked = ["has", "How", "many", "now", "?", "+", "-", "*", "/", "=", ";"]
        return tuple(dict.fromkeys([*NAMES, *ITEMS, *said, *asked]))

    def generate(self, rng: random.Random, level: int) -> Problem:
        item = rng.choice(ITEMS[: self.items])
        start = value = rng.randint(1, LIMIT)
        teller = rng.choice(NAMES[: self.names])
        moves = []
        for _ in range(level):
            form, sign, operand = self._step(rng, value)
            moves.append(Move(rng.choice(NAMES[: self.names]), form, sign, operand))
            value = apply(sign, value, operand)
        return self._story(teller, item, start, moves)

    def paraphrase(self, problem: Problem, rng: random.Random) -> Problem:
        _, _, start, moves = read(problem.prompt)
        told = []
        for move in moves:
            forms = PHRASINGS[_operation(move)][: self.phrasings]
            told.append(replace(move, name=rng.choice(NAMES[: self.names]), form=rng.choice(forms)))
        return self._story(rng.choice(NAMES[: self.names]), rng.choice(ITEMS[: self.items]), start, told)

    def numbers(self, problem: Problem, rng: random.Random) -> Problem:
        teller, item, _, moves = read(problem.prompt)
        for _ in range(TRIES):
            start = value = rng.randint(1, LIMIT)
            told = []
            for move in moves:
                options = _options(_operation(move), value)
                if not options:
                    break
                sign, operand = rng.choice(options)
                told.append(replace(move, operand=operand))
                value = apply(sign, value, operand)
            else:
                return self._story(teller, item, start, told)
        return problem

    def worked(self, problem: Problem) -> Chain:
        return Chain(problem.solution or "", problem.answer or "")

    def mistake(self, problem: Problem, rng: random.Random) -> Chain:
        """Goes wrong at one step (sum, operand, sign, or the step left out) and carries on from there."""
        steps = [line.split() for line in (problem.solution or "").split(" ;") if line.strip()]
        start, moves = int(steps[0][0]), [(step[1], int(step[2])) for step in steps]
        for _ in range(30):
            chain = _gone_wrong(start, moves, rng)
            if chain is not None and chain.answer != problem.answer:
                return chain
        *right, last = (problem.solution or "").removesuffix(" ;").split(" ; ")
        wrong = str(nearby(int(problem.answer or ""), rng))
        slipped = f"{last.rpartition(' = ')[0]} = {wrong}"
        return Chain("".join(f"{line} ; " for line in right) + f"{slipped} ;", wrong)

    def _story(self, teller: str, item: str, start: int, moves: list[Move]) -> Problem:
        sentences, steps, value = [f"{teller} has {start} {item} ."], [], start
        for move in moves:
            sentences.append(move.form.format(name=move.name, k=move.operand, item=item))
            after = apply(move.sign, value, move.operand)
            steps.append(f"{value} {move.sign} {move.operand} = {after} ;")
            value = after
        prompt = " ".join([*sentences, f"How many {item} now ?"])
        return self._problem(prompt, len(moves), Chain(" ".join(steps), str(value)), str(value))

    def _step(self, rng: random.Random, value: int) -> tuple[str, str, int]:
        """One possible step from `value`: its sentence, sign and operand; every sentence form equally likely."""
        forms = [(operation, form) for operation in self.operations for form in PHRASINGS[operation][: self.phrasings]]
        rng.shuffle(forms)
        for operation, form in forms:
            options = _options(operation, value)
            if options:
                sign, operand = rng.choice(options)
                return form, sign, operand
        raise UserError(f"family stories: operations {self.operations}: nothing leads on from {value}")


def read(prompt: str) -> tuple[str, str, int, list[Move]]:
    """Who has how many of what at first, and the steps: teller, item, number, moves."""
    first, *rest, asked = prompt.split(" . ")
    teller, _, start, item = first.split()
    moves = []
    for sentence in rest:
        name, *words = sentence.split()
        operand = next((int(word) for word in words if word.isdigit()), 0)
        form = " ".join(["{name}", *("{k}" if w.isdigit() else "{item}" if w == item else w for w in words), "."])
        operation = next(kind for kind, forms in PHRASINGS.items() if form in forms)
        sign, fixed = FIXED.get(operation, ("+" if operation == "add" else "-", operand))
        moves.append(Move(name, form, sign, fixed))
    assert asked == f"How many {item} now ?", "written by this file"
    return teller, item, int(start), moves


def _operation(move: Move) -> Operation:
    return next(kind for kind, forms in PHRASINGS.items() if move.form in forms)


def apply(sign: str, value: int, operand: int) -> int:
    """One step of arithmetic; division is exact where it is offered and rounds down in a mistake."""
    return {"+": value + operand, "-": value - operand, "*": value * operand, "/": value // operand}[sign]


def _options(operation: Operation, value: int) -> list[tuple[str, int]]:
    """Signs and operands that keep the value within the numbers there are."""
    if operation in FIXED:
        sign, operand = FIXED[operation]
        exact = sign == "*" or value % operand == 0
        return [(sign, operand)] if value > 0 and exact and apply(sign, value, operand) <= LIMIT else []
    sign = "+" if operation == "add" else "-"
    return [(sign, k) for k in range(1, MAX_OPERAND + 1) if 0 <= apply(sign, value, k) <= LIMIT]


def _gone_wrong(start: int, moves: list[tuple[str, int]], rng: random.Random) -> Chain | None:
    """One faulty run; None when it leaves the numbers there are."""
    at, kind = rng.randrange(len(moves)), rng.choice(("sum", "operand", "sign", "dropped"))
    value, lines = start, []
    for index, (sign, operand) in enumerate(moves):
        if index == at and kind == "dropped" and len(moves) > 1:
            continue
        if index == at and kind == "operand":
            operand = max(1, operand + rng.choice((-1, 1)))
        if index == at and kind == "sign":
            sign = {"+": "-", "-": "+", "*": "+", "/": "-"}[sign]
        after = apply(sign, value, operand)
        if index == at and kind == "sum" and 0 <= after <= LIMIT:
            after = nearby(after, rng)
        if not 0 <= after <= LIMIT:
            return None
        lines.append(f"{value} {sign} {operand} = {after} ;")
        value = after
    return Chain(" ".join(lines), str(value))
