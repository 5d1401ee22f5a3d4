"""Reflection: how often a thought checks itself, doubts, or tries another way.

What DeepSeek-R1-Zero learned by itself (arXiv 2501.12948, section 2.2.4: the "aha moment" that begins with "wait").
Markers are counted by kind, each place once; they are words and no proof that anything was checked.
What is not covered: languages other than English and Chinese score 0.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from distill.judge.style.prose import prose, words
from distill.judge.style.score import Style

FULL = 1.0
"""Markers per 100 words from which on the score is 1. Three of four R1 distillates' traces have 2 or more."""
TOO_MANY = 10.0
"""Markers per 100 words from which on the score falls, to 0 at twice as many. No real trace has 5."""
FILLER_FROM = 5
"""Markers under which there are never too many, however short the text."""

KINDS = ("verify", "doubt", "alternative")
LETS = "let(?: me|'s| us)(?: just| quickly| also)? "
ENGLISH = {
    "verify": (
        r"(?:double|cross|sanity|re)[- ]?check\w*",
        r"check(?:ing)? (?:the|this|that|my|our|these|those|it|again|if|whether|each|both|all|with|by)\b",
        rf"{LETS}(?:check|verify|confirm|test|make sure|see if)\b",
        r"verif(?:y|ying|ication)\b",
        r"to confirm\b",
        r"plug(?:ging)? (?:it|this|that|them|these) (?:back|in)\b",
    ),
    "doubt": (
        # The verb of a story ("they wait an hour") starts no sentence and ends no clause.
        r"wait\b(?:(?=\s?[,.!?…—-])|(?<=[.!?\n]\swait)|(?<=\nwait))",
        r"hm+\b",
        r"hold on\b",
        r"on second thoughts?\b",
        r"actually,",
        r"(?:that|this|it)(?: is|'s)? (?:can't|cannot|doesn't|does not|isn't|is not|not)"
        r"(?: be| seem| look| sound| make)? (?:right|correct|sense|possible)\b",
        r"ma[dk]e a mistake\b",
        r"am i (?:sure|missing)\b",
        rf"{LETS}re-?(?:think|consider|calculate|compute|count|do|examine|evaluate|read|visit|trace|assess|start)\b",
    ),
    "alternative": (
        r"alternatively\b",
        r"another (?:way|approach|method|idea|thought|possibility|angle)\b",
        r"different (?:way|approach|method|angle)\b",
        rf"{LETS}try (?:another|a different|something else)\b",
        r"or (?:maybe|perhaps)\b",
    ),
}
CHINESE = {
    "verify": ("检查", "验证", "核对", "检验", "验算", "确认一下", "代回"),
    "doubt": ("等等", "等一下", "不对", "重新", "搞错", "再想想"),
    "alternative": ("另一种", "换一种", "换个", "另一个方法", "或者可以"),
}


def _any_of(markers: Mapping[str, Sequence[str]]) -> str:
    return "|".join(f"(?P<{kind}>{'|'.join(patterns)})" for kind, patterns in markers.items())


MARKERS = (re.compile(rf"\b(?:{_any_of(ENGLISH)})"), re.compile(_any_of(CHINESE)))


def reflection(thought: str, answer: str) -> Style:
    """Count the markers of the thought, or of the answer where there is no thought."""
    plain = prose(thought or answer)
    size = sum(1 for _ in words(plain))
    counts = Counter(dict.fromkeys(KINDS, 0))
    lower = "\n" + plain.casefold().replace("’", "'")
    counts.update(found.lastgroup or "" for markers in MARKERS for found in markers.finditer(lower))
    total = counts.total()
    if not total:
        return Style(0.0, "no reflection", counts)
    density = 100 * total / max(1, size)
    if density > TOO_MANY and total >= FILLER_FROM:
        return Style(max(0.0, 2 - density / TOO_MANY), f"{density:.1f} markers of reflection per 100 words", counts)
    if density < FULL:
        return Style(density / FULL, f"little reflection: {density:.2f} markers per 100 words", counts)
    return Style(1.0, "", counts)
