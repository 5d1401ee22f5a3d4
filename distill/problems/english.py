"""English words that stand for numbers, and given names: what the variants of GSM8K know of the language."""

from fractions import Fraction


def _words(text: str) -> list[str]:
    return text.split()


_SPELLED = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100}
SPELLED = {word: value for value, word in enumerate(_words(_SPELLED))} | _TENS
"""Numbers as words; composed ones (`twenty-five`) are not read."""

_MEANT: dict[str, tuple[int | str, ...]] = {
    "half halves": ("1/2", 2),
    "twice double doubled doubles doubling pair pairs couple both": (2, "1/2"),
    "thrice triple tripled triples": (3,),
    "quarter quarters": (4, "1/4", 25, "3/4"),
    "third thirds": (3, "1/3", "2/3"),
    "fourths fourth": (4, "1/4", "3/4"),
    "quadruple quadrupled": (4,),
    "dozen dozens": (12,),
    "week weeks weekly": (7, 52),
    "weekday weekdays": (5,),
    "weekend weekends": (2,),
    "day days daily": (24, 7),
    "month months monthly": (12, 30, 4),
    "year years yearly annual annually": (12, 52, 365),
    "hour hours hourly": (60, 24),
    "minute minutes": (60,),
    "cents cent dollars": (100, "1/100"),
    "decade decades": (10,),
    "century": (100,),
    "foot feet inches": (12,),
    "yard yards": (3,),
    "pound pounds ounces": (16,),
    "nickel nickels": (5, "1/20"),
    "dime dimes": (10, "1/10"),
}
CONSTANTS: dict[str, tuple[Fraction, ...]] = {
    **{word: (Fraction(value),) for word, value in SPELLED.items()},
    **{word: tuple(Fraction(value) for value in values) for words, values in _MEANT.items() for word in _words(words)},
}
"""Numbers a computation may use where the question says the word."""

_ORDINALS = """fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth
twentieth consecutive"""
ORDINALS = frozenset(_words(_ORDINALS))
"""Words that count with a number nobody wrote down as one."""

_WOMEN = """Alice Amy Ana Andrea Angela Anna Anne Ashley Barbara Betty Brenda Carla Carol Catherine Christina Claire
Cynthia Daisy Deborah Diana Donna Elena Elizabeth Ella Emily Emma Erica Eva Gina Hannah Heather Helen Isabella Jane
Janet Jenna Jennifer Jenny Jessica Judy Julia Julie Karen Kate Katie Kelly Laura Lauren Leah Linda Lisa Lucy Maria
Marie Martha Mary Megan Melissa Mia Michelle Monica Nancy Natalie Nicole Nina Olivia Pamela Rachel Rebecca Sara Sarah
Sharon Sophia Stephanie Susan Teresa Tina Vanessa Wendy"""
_MEN = """Aaron Adam Alan Albert Alex Andrew Anthony Arthur Ben Benjamin Bob Brandon Brian Bruce Carl Carlos Charles
Chris Christopher Daniel David Dennis Derek Donald Doug Edward Eric Ethan Evan Frank Gary George Greg Harold Harry
Henry Isaac Jack Jacob James Jason Jeff Jeremy Jerry Jim Joe John Johnny Jonathan Jose Joseph Josh Juan Justin Keith
Kevin Kyle Larry Leo Liam Logan Louis Luke Marcus Martin Matthew Michael Mike Nathan Nick Noah Oliver Oscar Paul Peter
Philip Ralph Raymond Richard Robert Roger Ryan Sam Samuel Scott Sean Stephen Steve Steven Ted Thomas Tim Timothy Tom
Tommy Tony Tyler Victor Walter William"""
NAMES = (frozenset(_words(_WOMEN)), frozenset(_words(_MEN)))
"""Given names, women's and men's; none that is also a word."""
