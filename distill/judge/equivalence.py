r"""Equivalence: when two answers are the same, decided exactly and without algebra where possible.

Numbers are rationals: integers, decimals, fractions in either notation, mixed numbers,
percentages, thousands separators, a unit behind. Nothing is rounded, so 0.33 is not 1/3
and 1/2^99 is not 1/2^98. What this cannot decide is left to computer algebra, behind a
size guard that keeps out expressions whose evaluation could explode.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from distill.records import Status

LONGEST_NUMBER = 4000
"""Characters; Python refuses to read integers much longer."""
LONGEST_FOR_ALGEBRA = 400
"""Characters of one answer that computer algebra is asked about."""

DROPPED = re.compile(r"\\left|\\right|\\[!,;: ]|~|\\displaystyle|\^\{?\\circ\}?|\\degree|°|\\\$|\$|\\\(|\\\)|\\\[|\\\]")
TEXT = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf|textit|operatorname)\s*\{([^{}]*)\}")
WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
DECIMAL = re.compile(rf"({WHOLE})?(?:\.(\d*))?")
SCIENTIFIC = re.compile(r"(?:e|\s*(?:\\times|\\cdot|\*)\s*10\s*\^)\s*\{?\s*([+-]?\d{1,3})\s*\}?", re.IGNORECASE)
LATEX_FRACTION = re.compile(r"\\frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(-?\d+)\s*\}|(\d))")
SLASH_FRACTION = re.compile(rf"({WHOLE})\s*/\s*({WHOLE})")
ASSIGNED = re.compile(r"^[A-Za-z]\s*=\s*")
UNIT = re.compile(r"[A-Za-z][A-Za-z ./]*[A-Za-z]\.?")
NOT_A_UNIT = re.compile(
    r"\b(?:and|base|billion|cubed|dozen|factorial|half|hundred|million|minus|mod|or|over|percent|pi|plus|sqrt|squared"
    r"|thousand|times|to|trillion)\b",
    re.IGNORECASE,
)
"""Words behind a number that change its value."""
BASE = re.compile(r"^([0-9A-Za-z]+)_\{?(\d+)\}?$")
EXPLOSIVE = re.compile(
    r"\d{4,}\s*!|[!)}]\s*!"  # 10000! (2n)! 3!!
    r"|\^\s*\{?\s*\(?-?\d{5,}|\^\s*(?:\d+|\{\s*\d+)\s*\^"  # 2^{100000} 9^9^9
    r"|\\(?:sum|prod|int)(?![A-Za-z])"
)
"""Factorials of large numbers or of expressions, huge exponents, towers, sums and integrals."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number someone wrote, with what stood behind it."""

    value: Fraction
    percent: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is said about one answer."""

    status: Status
    why: str = ""
    seconds: float = 0.0
    """What it took when it was asked; a remembered ruling keeps it."""
    isolation: Literal["proxy", "in-process", "none"] | None = None
    """How a program was kept apart from its checks, when one ran."""


def compare(gold: str, said: str) -> Ruling | None:
    """Exact comparison of normalized answers; None when it takes algebra to decide."""
    if not gold:
        return Ruling("gold_bad", "the gold answer is empty")
    if _squeezed(gold) == _squeezed(said):
        return Ruling("correct")
    based = _compare_bases(gold, said)
    if based is not None:
        return based
    expected, found = quantity(gold), quantity(said)
    if expected is None or found is None:
        return None
    if not _same_number(expected, found):
        return Ruling("wrong")
    if expected.unit and found.unit and expected.unit.rstrip("s") != found.unit.rstrip("s"):
        return Ruling("undecided", f"same number, units {expected.unit!r} and {found.unit!r}")
    return Ruling("correct")


def explosive(text: str) -> str | None:
    """Why an answer is not handed to computer algebra, or None when it may be."""
    if len(text) > LONGEST_FOR_ALGEBRA:
        return f"longer than {LONGEST_FOR_ALGEBRA} characters"
    found = EXPLOSIVE.search(text)
    return f"{found.group()[:40]!r} could explode when evaluated" if found else None


def for_algebra(text: str) -> str:
    """A normalized answer as computer algebra should read it: a number without its unit or percent sign."""
    number = quantity(text)
    return text if number is None else str(number.value)


def normalize(text: str) -> str:
    """One spelling for spellings that mean the same: spacing, delimiters, text wrappers, signs."""
    text = text.strip().replace("−", "-").replace("–", "-").replace("{,}", ",").replace("\\%", "%")
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = DROPPED.sub("", TEXT.sub(r" \1", text))
    return re.sub(r"\s+", " ", text).strip(" *_").removesuffix(".").strip()


def quantity(text: str) -> Quantity | None:
    """The number a normalized text is, or None when it is anything else."""
    if len(text) > LONGEST_NUMBER:
        return None
    text = ASSIGNED.sub("", text)
    sign = -1 if text.startswith("-") else 1
    text = text[1:].lstrip() if text[:1] in ("-", "+") else text
    read = _number(text)
    if read is None:
        return None
    value, rest = read
    percent = rest.startswith("%")
    rest = rest[1:].strip() if percent else rest.strip()
    if rest and (not UNIT.fullmatch(rest) or NOT_A_UNIT.search(rest)):
        return None
    return Quantity(sign * value, percent, rest.lower().rstrip("."))


def _number(text: str) -> tuple[Fraction, str] | None:
    """The unsigned number a text begins with, and what stands behind it."""
    for pattern in (LATEX_FRACTION, SLASH_FRACTION):
        found = pattern.match(text)
        if found:
            return _fraction(found, text)
    found = DECIMAL.match(text)
    if found is None or not any(found.groups()):
        return None
    whole, decimals = found.group(1) or "0", found.group(2) or ""
    value, rest = Fraction(int(whole.replace(",", "") + decimals), 10 ** len(decimals)), text[found.end() :]
    power = SCIENTIFIC.match(rest)
    if power:
        return value * Fraction(10) ** int(power.group(1)), rest[power.end() :]
    mixed = LATEX_FRACTION.match(rest.lstrip()) or (rest.startswith(" ") and SLASH_FRACTION.match(rest.lstrip()))
    if mixed and not decimals:
        part = _fraction(mixed, rest.lstrip())
        return (value + part[0], part[1]) if part and part[0] < 1 else None
    return value, rest


def _fraction(found: re.Match[str], text: str) -> tuple[Fraction, str] | None:
    top, bottom = (int(number.replace(",", "")) for number in found.groups() if number)
    return (Fraction(top, bottom), text[found.end() :]) if bottom else None


def _same_number(gold: Quantity, said: Quantity) -> bool:
    """A missing percent sign is forgiven; 25% is also 0.25, but 2500% is no answer to 25."""
    if gold.value == said.value:
        return True
    if gold.percent and not said.percent:
        return said.value == gold.value / 100
    return said.percent and not gold.percent and gold.value.denominator != 1 and gold.value == said.value / 100


def _compare_bases(gold: str, said: str) -> Ruling | None:
    """Numerals with a base written behind: digits and base must agree; the base may be left out."""
    expected, found = BASE.match(_squeezed(gold)), BASE.match(_squeezed(said))
    if expected is None and found is None:
        return None
    digits = [each.group(1) if each else _squeezed(text) for each, text in ((expected, gold), (found, said))]
    bases = {each.group(2) for each in (expected, found) if each}
    return Ruling("correct" if digits[0] == digits[1] and len(bases) == 1 else "wrong")


def _squeezed(text: str) -> str:
    return text.replace(" ", "")
