"""Normalize: when two texts count as the same, and what a word is.

Words are runs of letters and digits in lower case, so spacing, punctuation and TeX marks
do not hide a copied problem. Does not stem, translate or transliterate.
"""

import re

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-case alphanumeric runs: `\\frac{1}{2} OF X_1` -> frac 1 2 of x 1."""
    return _WORD.findall(text.lower())


def squeezed(text: str) -> str:
    """The text with every run of white space as one space: signs and letter case still count."""
    return " ".join(text.split())
