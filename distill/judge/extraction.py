r"""Extraction: which part of a text is the answer.

In order: the last `\boxed{}` by brace counting, the last `#### n` line, what follows the
last "answer is", and without any such mark the last number (or the whole text, when the
gold answer is no number). Thoughts are cut off first; an answer said only inside a thought
does not count, nor does one in a box that never closes.
What is not covered: several boxes that together make one answer; only the last one counts.
"""

import re
from dataclasses import dataclass

from distill.judge.equivalence import normalize, quantity
from distill.prompts import END_THINK, THINK, split_thought

LONGEST_UNMARKED = 200
"""Characters of an unmarked text that can still be an answer rather than prose."""

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
HASHES = re.compile(r"####[ \t]*([^\n]+)")
PHRASE = re.compile(r"\banswer\s*(?:is|was|:|=)\s*:?\s*", re.IGNORECASE)
SENTENCE_END = re.compile(r"\.(?=\s|$)|\n")
NUMBER = re.compile(r"(?:(?<![\w.)])-)?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:(?<=\d)\.?|\.(?=\d))\d*(?:/\d+)?\s?%?")


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer found, and whether the text marked it as such."""

    text: str
    marked: bool


def final_part(answer: str) -> str | None:
    """What is left after further think blocks; None when one of them never ends."""
    while THINK in answer or END_THINK in answer:
        rest = split_thought(answer).answer
        if rest is None:
            return None
        answer = rest
    return answer


def extract(answer: str, *, numeric: bool) -> Extracted | None:
    """The answer in a text without thoughts. `numeric`: the gold answer is a number."""
    if BOX.search(answer):
        inside = last_boxed(answer)
        return Extracted(inside, True) if inside else None
    marked = HASHES.findall(answer)
    if marked:
        return Extracted(marked[-1].strip(), True)
    said = _after_phrase(answer)
    if said:
        return Extracted(_lone_number(said) or said if numeric else said, True)
    whole = answer.strip()
    short = 0 < len(whole) <= LONGEST_UNMARKED
    if not numeric or (short and quantity(normalize(whole))):
        return Extracted(whole, False) if short else None
    numbers = _numbers(answer)
    return Extracted(numbers[-1], False) if numbers else None


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` or `\boxed 5`; None when its braces never close or it is empty."""
    *_, box = BOX.finditer(text)
    rest = text[box.end() :]
    if not rest.startswith("{"):
        bare = re.match(r"[^\s$\\.,]+", rest)
        return bare.group() if bare else None
    depth, place = 0, 0
    while place < len(rest):
        character = rest[place]
        if character == "\\":
            place += 2  # an escaped brace belongs to the answer
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:place].strip() or None
        place += 1
    return None


def _after_phrase(text: str) -> str | None:
    phrases = list(PHRASE.finditer(text))
    if not phrases:
        return None
    said = SENTENCE_END.split(text[phrases[-1].end() :], maxsplit=1)[0]
    return said.strip(" *_:") or None


def _lone_number(said: str) -> str | None:
    """The number of a wordy answer such as "that Tom has 18 eggs"; None when there is not exactly one."""
    numbers = _numbers(said)
    return numbers[0] if len(numbers) == 1 and len(said.split()) > 3 else None


def _numbers(text: str) -> list[str]:
    return [found.strip() for found in NUMBER.findall(text) if any(map(str.isdigit, found))]
