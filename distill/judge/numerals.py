r"""Numerals: numbers as people write them, read as rationals.

Integers, decimals, repeating decimals, both notations of fractions, mixed numbers, powers
of ten, percentages, thousands separators, English words, numerals with a base; with a unit
behind. Nothing is rounded: 0.33 is not 1/3 and 25% is not 2500%.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST_NUMBER = 4000
"""Characters; Python refuses to read integers much longer."""
LARGEST_POWER_OF_TEN = 999

WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
DECIMAL = re.compile(rf"({WHOLE})?(?:\.(\d*))?(?:\\overline\{{(\d+)\}})?")
SCIENTIFIC = re.compile(r"(?:[eE]|\s*(?:\\cdot|\*|x)\s*10\s*\^)\s*\{?\s*([+-]?\d{1,3})(?!\d)\s*\}?")
LATEX_FRACTION = re.compile(r"\\frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}")
SLASH_FRACTION = re.compile(rf"({WHOLE})\s*/\s*({WHOLE})(?![\d.])")
ASSIGNED = re.compile(r"^([A-Za-z])\s*=\s*")
UNIT = re.compile(r"[A-Za-z][A-Za-z ./]*(?:\s?\^\s?\{?\s?[23]\s?\}?)?\.?")
MEASURE_WORDS = re.compile(
    "[个只本元米克吨升人次天年月周秒岁页张条块支颗头名种件]|厘米|千米|公里|毫米|千克|公斤|毫升|小时|分钟|平方(?:厘)?米|立方(?:厘)?米"
)
"""Chinese measure words; any other character behind a number may change its value."""
MONEY = {"¤": "dollar", "$": "dollar", "£": "pound sterling", "€": "euro", "¥": "yen"}
LETTER_UNITS = frozenset("NJWVAKCF")
"""More units of one letter; any other letter behind a number is an unknown."""
NOT_A_UNIT = re.compile(
    r"\b(?:a?cos|sin|tan|cot|sec|csc|log|ln|lg|exp|sqrt|root)|\b(?:and|at|base|but|choose|cubed|double|dozen|else|even"
    r"|factorial|false|first|for|gross|half|halves|hundred|if|infinit|inverse|is|lakh|least|less|mil|million|minus|mod"
    r"|modulo|more|most|negative|no|not|odd|of|only|or|over|percent|pi|plus|quarter|reciprocal|score|squared|than|then"
    r"|thousand|times|to|trillion|triple|true|undefined|unless|where|wrong|x|billion|crore|excluded|except|without"
    r"|alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|omega"
    r"|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|twentieth|hundredth|thousandth|millionth)"
    r"(?:s|th|ths|y|e)?\b|^[xyzabckni]$",
    re.IGNORECASE,
)
"""Words behind a number that change its value."""
PERCENT = re.compile(r"%|percent\b")
BASE = re.compile(r"(-?)(\d[0-9A-Za-z]*)((?:\.[0-9A-Za-z]+)?)_(?:(\d)|\{(\d+)\})")

ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SMALL = {word: number for number, word in enumerate(ONES)} | {word: 10 * (n + 2) for n, word in enumerate(TENS)}
SPOKEN = frozenset([*SMALL, *SCALES, "hundred"])

SAME_UNITS = {
    name: names[0]
    for names in (
        ("centimeter", "centimetre", "cm"), ("millimeter", "millimetre", "mm"), ("kilometer", "kilometre", "km"),
        ("meter", "metre", "m"), ("inch", "inches", "in"), ("foot", "feet", "ft"), ("mile", "mi"), ("yard", "yd"),
        ("miles per hour", "mph", "miles/hour"), ("kilogram", "kg"), ("gram", "gm", "g"), ("pound", "lb"),
        ("second", "sec", "s"), ("minute", "min"), ("hour", "hr", "h"), ("liter", "litre", "l"), ("dollar", "usd"),
    )
    for name in names
}  # fmt: skip
WORDS_OF_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number someone wrote, with what stood behind it."""

    value: Fraction
    percent: bool = False
    unit: str = ""


def quantity(text: str) -> Quantity | None:
    """The number a normalized text is, or None when it is anything else."""
    if len(text) > LONGEST_NUMBER:
        return None
    text = ASSIGNED.sub("", text)
    money = next((MONEY[sign] for sign in MONEY if text.lstrip("+- ").startswith(sign)), "")
    text = re.sub(r"^([+-]?)\s*[¤$£€¥]\s*", r"\1", text) if money else text
    sign = -1 if text.startswith("-") else 1
    text = text[1:].lstrip() if text[:1] in ("-", "+") else text
    read = _number(text) or _spoken(text)
    if read is None:
        return None
    value, rest = read
    percent = PERCENT.match(rest.lstrip())
    degrees = rest.startswith("°")
    rest = rest.lstrip()[percent.end() :] if percent else rest.removeprefix("°")
    if rest.strip() and (money or percent or not is_unit(rest)):
        return None
    unit = "degree" if degrees and not rest.strip() else unit_name(rest)
    return Quantity(sign * value, bool(percent), money or ("percent" if percent else unit))


def is_unit(text: str) -> bool:
    """True for words behind a number that name what was counted and leave the number as it is.

    Short ones could be products of unknowns, so they must be known, or apart from the number and pronounceable.
    """
    words = text.split()
    if MEASURE_WORDS.fullmatch(text.strip()):
        return True
    if not UNIT.fullmatch(text.strip()) or len(words) > 4 or NOT_A_UNIT.search(text.strip()):
        return False
    if SPOKEN & set(text.lower().split()):
        return False
    letters, apart = re.match(r"[A-Za-z]*", words[0]).group(), text.startswith(" ")  # type: ignore[union-attr]
    raised = "^" in text
    name = unit_name(text).removesuffix("^2").removesuffix("^3")
    if len(letters) == 1:
        return apart and (letters in ("m", "g", "s", "h", "L", *LETTER_UNITS)) and (not raised or letters == "m")
    if name in SAME_UNITS.values():
        return True
    if not apart or len(name) < 3:
        return False
    return len(name) > 3 or bool(set("aeiou") & set(name) and set(name) - set("abcxyz"))


def unit_name(text: str) -> str:
    """One name for a unit: `cm^2`, `square centimeters` and `sq cm` are the same."""
    words = re.sub(r"[\s{}]+", " ", text.lower().rstrip(". ")).replace(" ^ ", "^").replace(" ^", "^").split()
    power = next((WORDS_OF_POWERS[word] for word in words if word in WORDS_OF_POWERS), "")
    name = " ".join(word for word in words if word not in WORDS_OF_POWERS)
    if name.endswith(("^2", "^3")):
        name, power = name[:-2].rstrip(), name[-2:]
    singular = name if name in SAME_UNITS else name.removesuffix("s")
    return SAME_UNITS.get(singular, singular) + power


def same_number(gold: Quantity, said: Quantity) -> bool:
    """A missing percent sign is forgiven; 25% is also 0.25, but 2500% is no answer to 25, nor 0.5% to 0.5."""
    if gold.value == said.value:
        return gold.percent or not said.percent or not 0 < abs(gold.value) < 1
    if gold.percent and not said.percent:
        return said.value == gold.value / 100
    return said.percent and not gold.percent and gold.value.denominator != 1 and gold.value == said.value / 100


def based(text: str) -> tuple[str, int] | None:
    """Digits and base of a numeral that names its base; a subscript behind digits it does not have is none."""
    found = BASE.fullmatch(text)
    if not found:
        return None
    sign, whole, part, *bases = found.groups()
    base = int("".join(filter(None, bases)))
    known = 2 <= base <= 36 and all(int(digit, 36) < base for digit in whole + part[1:])
    return (f"{sign}{whole}{part}".upper(), base) if known else None


def in_base_ten(digits: str, base: int) -> Fraction:
    """The value of a numeral."""
    whole, _, part = digits.partition(".")
    return Fraction(int(whole + part, base), base ** len(part))


def plain_digits(text: str) -> tuple[str, str, str] | None:
    """Sign, whole part and decimals of a plain number of any length, in one spelling."""
    found = re.fullmatch(rf"([+-]?)({WHOLE})(?:\.(\d*))?", text)
    if not found:
        return None
    whole, decimals = found.group(2).replace(",", "").lstrip("0"), (found.group(3) or "").rstrip("0")
    return ("-" if found.group(1) == "-" and (whole or decimals) else "", whole, decimals)


def _number(text: str) -> tuple[Fraction, str] | None:
    """The unsigned number a text begins with, and what stands behind it."""
    for pattern in (LATEX_FRACTION, SLASH_FRACTION):
        found = pattern.match(text)
        if found:
            return _fraction(found, text)
    found = DECIMAL.match(text)
    if found is None or not any(found.groups()):
        return None
    whole, decimals, repeating = found.group(1) or "0", found.group(2) or "", found.group(3)
    value, rest = Fraction(int(whole.replace(",", "") + decimals), 10 ** len(decimals)), text[found.end() :]
    if repeating:
        if found.group(2) is None:
            return None
        return value + Fraction(int(repeating), (10 ** len(repeating) - 1) * 10 ** len(decimals)), rest
    power = SCIENTIFIC.match(rest)
    if power:
        return value * Fraction(10) ** int(power.group(1)), rest[power.end() :]
    mixed = LATEX_FRACTION.match(rest.lstrip()) or (rest.startswith(" ") and SLASH_FRACTION.match(rest.lstrip()))
    if mixed and not decimals:
        part = _fraction(mixed, rest.lstrip())
        return (value + part[0], part[1]) if part and 0 <= part[0] < 1 else None
    return value, rest


def _fraction(found: re.Match[str], text: str) -> tuple[Fraction, str] | None:
    top, bottom = (int(number.replace(",", "")) for number in found.groups())
    return (Fraction(top, bottom), text[found.end() :]) if bottom else None


def _spoken(text: str) -> tuple[Fraction, str] | None:
    """The number in English words a text begins with: twenty-one, three hundred and five."""
    words = text.lower().replace("-", " ").split()
    total, group, used = 0, 0, 0
    below = 100
    """What the next word must be less than: nothing follows a one, only ones follow a ten."""
    for place, word in enumerate(words):
        if word == "and" and group >= 100 and group % 100 == 0 and words[place + 1 : place + 2]:
            continue
        if SMALL.get(word, below) < below and (word != "zero" or place == 0):
            group, below = group + SMALL[word], 10 if SMALL[word] >= 20 else 0
        elif word == "hundred" and 0 < group < 10:
            group, below = group * 100, 100
        elif word in SCALES and group > 0 and total % (SCALES[word] * 1000) == 0:
            total, group, below = total + group * SCALES[word], 0, 100
        else:
            break
        used = place + 1
    if not used or (words[used:] and words[used] in SPOKEN):
        return None
    return Fraction(total + group), "".join(f" {word}" for word in words[used:])
