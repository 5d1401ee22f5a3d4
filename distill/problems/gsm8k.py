"""GSM8K put another way: its questions with other numbers, or in other words.

Other numbers, as GSM-Symbolic (Mirzadeh et al. 2024, arXiv:2410.05229) has them, but without templates by hand: the
calculator marks of a rationale, `<<16-3-4=9>>`, are its computation. A question is given new numbers only where every
operand is a number of the question, an earlier result, or a constant its words stand for (`twice`, `a week`, `40%`), so
that the new answer follows from the marks; nothing is guessed, and the other questions are left out. New numbers keep
the order of the old ones, whole results stay whole and positive ones positive.

Other words: names of the same gender, digits spelled out and the other way round, and the question asked before the
facts. These are rules, not a writer: sentences are not recast, and irrelevant facts (as in GSM-Plus, Li et al. 2024,
arXiv:2402.19255) are not added. Percentages, decimals, times, ordinals and years keep their numbers.
"""

import ast
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from distill.jsonl import read_jsonl
from distill.problems.benchmarks import GsmRow, benchmark_files
from distill.problems.english import CONSTANTS, NAMES, ORDINALS, SPELLED
from distill.records import Problem

TRIES = 1_000
SMALL = 12
"""Up to here a number used twice may have meant two things, and keeps its value."""
MARKS = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_ALONE = r"(?![\w%/:]|[.,]\d|\s?(?:%|percent|[ap]\.?m\b|o'clock))"
"""What may not follow a number that changes: it would be a share, a decimal, a fraction or a time."""
NUMBER = re.compile(rf"(?<![\w.,/:%-])(\$?)(\d{{1,3}}(?:,\d{{3}})+|\d+){_ALONE}")
PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s?(?:%|percent)")
ANY_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")
WORD = re.compile(r"[A-Za-z]+")
YEARS = range(1800, 2101)
OPERATIONS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

Value = Callable[[list[Fraction]], Fraction]
"""An operand or result, from the question's numbers."""


@dataclass(frozen=True, slots=True)
class Computation:
    """What a rationale computes."""

    numbers: tuple[tuple[int, int, Fraction], ...]
    """Numbers of the question that may change: where each stands, and its value."""
    steps: tuple[Value, ...]
    agree: tuple[tuple[Value, Value], ...]
    """Values an operand may have meant alike; they must stay the same."""


class Gsm8k:
    """Variants of GSM8K's problems, from its rows."""

    def __init__(self, rows: Iterable[GsmRow]) -> None:
        self.rows = {row.id: row for row in rows}

    @classmethod
    def of(cls, data: Path, splits: Iterable[str]) -> "Gsm8k":
        """The rows of some splits. Raises UserError when a file is missing."""
        files = [path for split in sorted(splits) for path in benchmark_files("gsm8k", split, data)]
        return cls(row for path in files for row in read_jsonl(path, GsmRow))

    def numbers(self, problem: Problem, rng: random.Random) -> Problem | None:
        """The same question with other numbers; None where its rationale does not tell what they would give."""
        row = self.rows.get(problem.id)
        found = computation(problem.prompt, row) if row is not None else None
        if found is None:
            return None
        old = [value for _, _, value in found.numbers]
        before = [step(old) for step in found.steps]
        for attempt in range(TRIES):
            share = 1.0 if attempt < TRIES // 2 else 0.5  # where all cannot change, some can
            new = [_other(value, rng) if rng.random() < share else value for value in old]
            if new != old and _ordered_alike(old, new) and (answer := _answer(found, before, new)) is not None:
                prompt = _with(problem.prompt, found.numbers, new)
                return problem.model_copy(update={"prompt": prompt, "answer": _shown(answer), "solution": None})
        return None

    def paraphrase(self, problem: Problem, rng: random.Random) -> Problem | None:
        """The same question in other words; None where no rule applies."""
        text = _renamed(problem.prompt, rng)
        text = _respelled(text)
        *facts, question = re.split(r"(?<=[.?!])\s+", text.strip())
        if facts and question.endswith("?"):
            text = f"The question is: {question} Here is what is known. {' '.join(facts)}"
        return problem.model_copy(update={"prompt": text, "solution": None}) if text != problem.prompt else None


def computation(question: str, row: GsmRow) -> Computation | None:
    """What the marks of a rationale compute from the numbers of `question`; None where they leave anything open."""
    if {word.lower() for word in WORD.findall(question)} & ORDINALS or re.search(r"\d(?:st|nd|rd|th)\b", question):
        return None  # `on the third day` counts with a number that would have to change too
    constants = _constants(question)
    everything = [Fraction(text.replace(",", "")) for text in ANY_NUMBER.findall(question)]
    used = _operands(row.answer)
    told = [(match, Fraction(match[2].replace(",", ""))) for match in NUMBER.finditer(question)]
    if used is None or not {value for _, value in told} <= used.keys():
        return None  # a number nothing is computed with may still have to fit the others
    numbers = tuple(
        (match.start(2), match.end(2), value)
        for match, value in told
        if value > 2  # two sides, an average of two: no word need say so
        and (value > SMALL or used[value] == 1)
        and value not in constants
        and everything.count(value) == 1
        and not (value in YEARS and not match[1])
    )
    free = {value for _, _, value in numbers}
    constants |= {value for value in everything if value not in free}
    steps: list[Value] = []
    agree: list[tuple[Value, Value]] = []
    results: list[Fraction] = []
    for expression, said in MARKS.findall(row.answer):
        known: dict[Fraction, list[Value]] = {}
        for place, (_, _, value) in enumerate(numbers):
            known.setdefault(value, []).append(operator.itemgetter(place))
        for step, value in zip(steps, results, strict=True):
            known.setdefault(value, []).append(step)
        for value in constants:
            known.setdefault(value, []).append(_always(value))
        made = _value(ast.parse(expression.strip(), mode="eval").body, known, agree)
        if made is None or made([value for _, _, value in numbers]) != _exact(said):
            return None
        steps.append(made)
        results.append(made([value for _, _, value in numbers]))
    if not numbers or not results or results[-1] != _exact(row.final) or not set(results[:-1]) <= used.keys():
        return None  # a result nothing goes on from was taken up unmarked
    return Computation(numbers, tuple(steps), tuple(agree))


def _always(value: Fraction) -> Value:
    return lambda new: value


def _operands(rationale: str) -> Counter[Fraction] | None:
    """How often its marks compute with each number; None where a mark is no plain arithmetic."""
    found: Counter[Fraction] = Counter()
    for expression, _ in MARKS.findall(rationale):
        if not re.fullmatch(r"[\d\s.+*/()-]+", expression):
            return None
        try:
            tree = ast.parse(expression.strip(), mode="eval")
        except SyntaxError:
            return None
        if not isinstance(tree.body, ast.BinOp):
            return None  # a bare number: what made it stands nowhere
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant):
                found[Fraction(str(node.value))] += 1
    return found


def _value(node: ast.expr, known: Mapping[Fraction, list[Value]], agree: list[tuple[Value, Value]]) -> Value | None:
    """A computation as a function of the question's numbers; None where an operand comes from nowhere."""
    if isinstance(node, ast.Constant):
        meant = known.get(Fraction(str(node.value)))
        if meant is None:
            return None
        agree.extend((meant[0], other) for other in meant[1:])
        return meant[0]
    if not isinstance(node, ast.BinOp) or type(node.op) not in OPERATIONS:
        return None
    left, right, apply = _value(node.left, known, agree), _value(node.right, known, agree), OPERATIONS[type(node.op)]
    if left is None or right is None:
        return None
    return lambda new: apply(left(new), right(new))


def _answer(found: Computation, before: list[Fraction], new: list[Fraction]) -> Fraction | None:
    """The answer the new numbers give; None where a result would not be of the old one's kind."""
    try:
        after = [step(new) for step in found.steps]
        if any(one(new) != other(new) for one, other in found.agree):
            return None
    except ZeroDivisionError:
        return None
    for old, value in zip(before, after, strict=True):
        whole = value.denominator == 1 if old.denominator == 1 else (value * 100).denominator == 1
        if not whole or (old > 0) != (value > 0):
            return None
    return after[-1] if after[-1] != before[-1] else None


def _ordered_alike(old: list[Fraction], new: list[Fraction]) -> bool:
    """Whether every two numbers keep their order: fewer girls than students stay fewer."""
    pairs = [(i, j) for i in range(len(old)) for j in range(i)]
    return all((old[i] < old[j]) == (new[i] < new[j]) and new[i] != new[j] for i, j in pairs)


def _other(value: Fraction, rng: random.Random) -> Fraction:
    """Another whole number from half to twice a number, as round as it was."""
    number = int(value)
    step = next(size for size in (1000, 100, 10, 5, 1) if size == 1 or (number % size == 0 and number >= 4 * size))
    low, high = max(-(-number // 2 // step), 1), 2 * number // step
    options = [count * step for count in range(low, high + 1) if count * step not in (number, 0, 1)]
    return Fraction(rng.choice(options)) if options else value


def _with(question: str, numbers: tuple[tuple[int, int, Fraction], ...], new: list[Fraction]) -> str:
    """The question with its numbers replaced, thousands marked where they were."""
    parts, end = [], 0
    for (start, stop, _), value in zip(numbers, new, strict=True):
        comma = "," in question[start:stop]
        parts += [question[end:start], f"{int(value):,}" if comma else str(int(value))]
        end = stop
    return "".join([*parts, question[end:]])


def _shown(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.2f}"


def _exact(text: str) -> Fraction | None:
    try:
        return Fraction(text.strip().replace(",", "").replace("$", ""))
    except ValueError:
        return None


def _constants(question: str) -> set[Fraction]:
    """Numbers the words of a question stand for."""
    found: set[Fraction] = set()
    for word in WORD.findall(question.lower()):
        found.update(CONSTANTS.get(word, ()))
    for text in PERCENT.findall(question):
        share = Fraction(text) / 100
        found |= {share * 100, share, 1 - share, 1 + share, 100 - 100 * share, 100 + 100 * share, Fraction(100)}
    return found


def _renamed(text: str, rng: random.Random) -> str:
    """Every given name replaced by another of its gender that is not in the text."""
    words = WORD.findall(text)
    swap: dict[str, str] = {}
    for names in NAMES:
        told = [word for word in dict.fromkeys(words) if word in names]
        others = rng.sample(sorted(names - set(words)), len(told))
        swap.update(zip(told, others, strict=True))
    return WORD.sub(lambda match: swap.get(match[0], match[0]), text)


def _respelled(text: str) -> str:
    """Numbers from two to twelve: digits become words, words become digits."""
    digits = {str(value): word for word, value in SPELLED.items() if 2 <= value <= 12}
    words = {word: digit for digit, word in digits.items()}
    pattern = re.compile(rf"(?<![\w$.,/:%-])(?:{'|'.join([*digits, *words])})(?!-){_ALONE}")
    return pattern.sub(lambda match: digits.get(match[0]) or words[match[0]], text)
