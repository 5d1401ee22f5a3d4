r"""Equivalence: when two answers are the same, decided exactly wherever that is possible.

Text first, then numbers as rationals, then closed forms, lists, intervals, matrices and
relations by their parts. Nothing is rounded: 0.33 is not 1/3 and 1/2^99 is not 1/2^98. What
this cannot decide is left to computer algebra, behind a size guard that keeps out
expressions whose evaluation could explode.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from distill.judge.algebra.sums import TooLargeError, Value
from distill.judge.answers import Group, Shape
from distill.judge.notation import ROW, squeezed
from distill.judge.numerals import ASSIGNED, Quantity, based, in_base_ten, plain_digits, quantity, same_number
from distill.judge.reading import read
from distill.judge.shapes import same_shape
from distill.records import Status

LONGEST_FOR_ALGEBRA = 400
"""Characters of one answer that computer algebra is asked about."""
DEEPEST_FOR_ALGEBRA = 16
"""Brackets within brackets: math-verify's parser takes time exponential in some of them."""
MOST_REMEMBERED = 4096

OPTION = re.compile(r"\(?([A-Ja-j])\)?")
CHOSEN = re.compile(r"(?:option|choice|answer)?\s*(?:\(([A-Ja-j])\)|([A-J])[.):]?)")
EXPLAINED = re.compile(r"(?:option|choice|answer)?\s*(?:\(([A-Ja-j])\)|([A-J])[.):](?=\s))\s*(.*)", re.DOTALL)
ANOTHER = re.compile(r"(?<![A-Za-z])[B-J](?![A-Za-z'])|\bA\)|\bor\b|\bnot\b|\bwrong\b|\bfalse\b|^[-+*/=]")
"""Behind an option these take it back, or choose again."""
TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::[0-5]\d)?(?: ?([ap])\.? ?m\.?)?", re.IGNORECASE)
WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9' .,:-]*")
WORDY = re.compile(r"[A-Za-z]{4}|[A-Za-z]{2} [A-Za-z]{2}|\d ?[ap](?:\.? ?m\b|\.)", re.IGNORECASE)
LEADING = re.compile(r"^(?:the|an?)\s+")
PUNCTUATION = re.compile(r"(?<!\d)[^a-z0-9]+|[^a-z0-9]+(?!\d)")
"""Marks that say nothing between words; between digits they do."""
LOWER_CONSTANT = re.compile(r"\+\s*c$")
BRACKET = re.compile(r"[()\[\]{}]")
DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*°")
EXPLOSIVE = re.compile(
    r"\d{4,}\s*!|[!)}]\s*!"  # 10000! (2n)! 3!!
    r"|\^\s*\{?\s*\(?-?\d{5,}|\^\s*(?:\d+|\{\s*\d+)\s*\^"  # 2^{100000} 9^9^9
    r"|\\(?:sum|prod|int)(?![A-Za-z])"
)
"""Factorials of large numbers or of expressions, huge exponents, towers, sums and integrals."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is said about one answer."""

    status: Status
    why: str = ""
    seconds: float = 0.0
    """What it took when it was asked; a remembered ruling keeps it."""
    isolation: Literal["proxy", "in-process", "none"] | None = None
    """How a program was kept apart from its checks, when one ran."""


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold answer, taken apart once."""

    text: str
    """Normalized."""
    quantity: Quantity | None
    option: str
    """The letter when it is an option A to J."""
    words: str
    """Its words when it is a text rather than mathematics."""
    several: bool
    """A set or list of answers."""


@lru_cache(maxsize=MOST_REMEMBERED)
def gold_answer(text: str) -> Gold:
    """A normalized gold answer as what it is compared as."""
    number = quantity(text)
    option = OPTION.fullmatch(text)
    letter = option.group(1).upper() if option and (text.startswith("(") or text.isupper()) else ""
    several, words = False, ""
    if number is None:
        try:
            answer = read(text)
            several = answer is not None and isinstance(answer.shape, Group) and answer.shape.brackets in (",", "{}")
            words = _words(text) if answer is None else ""
        except TooLargeError:
            several = False
    return Gold(text, number, letter, words, several)


def compare(gold: Gold, said: str) -> Ruling | None:
    """Exact comparison of a gold answer with a normalized one; None when it takes computer algebra to decide."""
    if not gold.text:
        return Ruling("gold_bad", "the gold answer is empty")
    if squeezed(gold.text) == squeezed(said):
        return Ruling("correct")
    if not said:
        return None
    try:
        for decide in (_by_option, _by_base, _by_number, _by_digits, _by_time, _by_words, _by_shape):
            ruling = decide(gold, said)
            if ruling is not None:
                return ruling
    except TooLargeError as error:
        return Ruling("undecided", f"{error} could explode when evaluated")
    return None


def explosive(text: str) -> str | None:
    """Why an answer is not handed to computer algebra, or None when it may be."""
    if len(text) > LONGEST_FOR_ALGEBRA:
        return f"longer than {LONGEST_FOR_ALGEBRA} characters"
    if _nesting(text) > DEEPEST_FOR_ALGEBRA:
        return f"nested more than {DEEPEST_FOR_ALGEBRA} deep"
    found = EXPLOSIVE.search(text)
    return f"{found.group()[:40]!r} could explode when evaluated" if found else None


def asked_of_algebra(gold: Gold, said: str) -> dict[str, str]:
    """The question for computer algebra, and what it is to say of a side that it cannot read."""
    known, understood = bool(gold.words) or _readable(gold.text), _readable(said)
    return {
        "gold": _for_algebra(gold.text),
        "said": _for_algebra(said),
        "gold_unread": "undecided" if known else "gold_bad",
        "said_unread": "undecided" if understood else "unparsed",
        "equal": "correct" if known and understood else "undecided",  # it may have read a piece only
    }


def _readable(text: str) -> bool:
    try:
        return read(text) is not None
    except TooLargeError:
        return True


def _for_algebra(text: str) -> str:
    """A normalized answer in LaTeX again: a number without its unit or percent sign."""
    number = quantity(text)
    if number is not None:
        return str(number.value)
    return DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text).replace("°", "").replace(ROW, r"\\")


def _nesting(text: str) -> int:
    depth = deepest = 0
    for bracket in BRACKET.findall(text):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def _by_option(gold: Gold, said: str) -> Ruling | None:
    """One of the letters A to J, with or without what it stands for."""
    if not gold.option:
        return None
    chosen = CHOSEN.fullmatch(said) or EXPLAINED.fullmatch(said)
    if chosen is None or (chosen.re is EXPLAINED and ANOTHER.search(chosen.group(3))):
        return Ruling("wrong", "no one option")
    return Ruling("correct" if gold.option == (chosen.group(1) or chosen.group(2)).upper() else "wrong")


def _by_base(gold: Gold, said: str) -> Ruling | None:
    """Numerals with a base written behind: digits and base must agree. The gold one's base may be left out."""
    expected, found = based(squeezed(gold.text)), based(squeezed(said))
    if expected is None and found is None:
        return None
    if expected is None or found is None:
        value = gold.quantity.value if gold.quantity else None
        same = squeezed(said).upper() == expected[0] if expected else found is not None and value == in_base_ten(*found)
        return Ruling("correct" if same else "wrong")
    return Ruling("correct" if expected == found else "wrong")


def _by_number(gold: Gold, said: str) -> Ruling | None:
    found = quantity(said) if gold.quantity else None
    if gold.quantity is None or found is None:
        return None
    names = {name.group(1).lower() for name in (ASSIGNED.match(gold.text), ASSIGNED.match(said)) if name}
    if not same_number(gold.quantity, found) or len(names) > 1:
        return Ruling("wrong")
    return _units(gold.quantity.unit, found.unit)


def _by_digits(gold: Gold, said: str) -> Ruling | None:
    """Plain numbers too long to be read as such."""
    expected = plain_digits(gold.text)
    found = plain_digits(said) if expected else None
    if expected is None or found is None:
        return None
    return Ruling("correct" if expected == found else "wrong")


def _by_time(gold: Gold, said: str) -> Ruling | None:
    """Times of day, to the letter; what could be a ratio as well is left open where they differ."""
    expected, found = TIME.fullmatch(gold.text), TIME.fullmatch(said)
    if expected is None or found is None:
        return None
    if [part and part.lower() for part in expected.groups()] == [part and part.lower() for part in found.groups()]:
        return Ruling("correct" if expected.group(0)[:8].count(":") == found.group(0)[:8].count(":") else "wrong")
    named = expected.group(3) or found.group(3)
    return Ruling("wrong") if named else None


def _by_words(gold: Gold, said: str) -> Ruling | None:
    """Names and words, whatever their case and article."""
    if not gold.words:
        return None
    words = _words(said)
    if words:
        return Ruling("correct" if words == gold.words else "wrong")
    mathematics = not any(map(str.isdigit, gold.words)) and (quantity(said) or read(said))
    return Ruling("wrong", "mathematics for words") if mathematics else None


def _by_shape(gold: Gold, said: str) -> Ruling | None:
    expected, found = read(gold.text), read(said)
    if expected and found and expected.integrated != found.integrated:  # + c is + C where the other side says so
        expected, found = read(LOWER_CONSTANT.sub("+C", gold.text)), read(LOWER_CONSTANT.sub("+C", said))
    if expected is None or found is None:
        return Ruling("wrong", "words") if expected is not None and _words(said) else None
    same = same_shape(expected.shape, found.shape, up_to_constant=expected.integrated and found.integrated)
    if same is None:
        return None
    bare = not (expected.unit and found.unit) and not _rational(expected.shape)
    if same and bare and "degree" in (expected.unit, found.unit):
        return Ruling("undecided", "one in degrees, the other without a unit")
    return _units(expected.unit, found.unit) if same else Ruling("wrong")


def _rational(shape: Shape) -> bool:
    """Numbers that people read as degrees where no unit is named; pi is not one."""
    items = shape.items if isinstance(shape, Group) else (shape,)
    return all(isinstance(item, Value) and item.rational is not None for item in items)


def _units(gold: str, said: str) -> Ruling:
    """The values agree; so must the units, where both are named."""
    if gold and said and gold != said:
        return Ruling("undecided", f"same value, units {gold!r} and {said!r}")
    return Ruling("correct")


def _words(text: str) -> str:
    """The text in lower case when it is words rather than mathematics, else nothing; a date or time is words."""
    if not WORDS.fullmatch(text) or not WORDY.search(text):
        return ""
    return PUNCTUATION.sub("", re.sub(r"(?<=\d)[\s,]+(?=\d)", " ", LEADING.sub("", text.lower())))
