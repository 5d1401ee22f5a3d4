r"""Extraction: which part of a text is the answer.

In order: the last `\boxed{}` by brace counting, the last `#### n` line, what follows the
last "answer is" (in English or Chinese), and without any such mark the last number, the last
option letter, or the whole text when the gold answer is neither. Boxes joined by commas, "and"
or "or" make one answer when the gold answer is a set or list. Thoughts are cut off first; an
answer said only inside a thought does not count, nor does one in a box that never closes,
nor a correction behind a box that is not boxed itself.
"""

import re
from dataclasses import dataclass

from distill.judge.equivalence import Gold
from distill.judge.notation import normalize
from distill.judge.numerals import quantity
from distill.prompts import END_THINK, THINK, split_thought

LONGEST_UNMARKED = 200
"""Characters of an unmarked text that can still be an answer rather than prose."""

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
HASHES = re.compile(r"####[ \t]*([^\n]+)")
PHRASE = re.compile(
    r"\banswers?\s*(?:is|are|was|:|=|\*\*:)\s*(?:\*\*)?\s*:?\s*(?:option|choice)?\s*"
    r"|(?:答案|结果)\s*(?:应该|应)?\s*(?:是|为|等于|:|：)\s*[:：]?\s*",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"\.(?=\s|$)|\n|。|；")
NUMBER = re.compile(r"(?:(?<![\w.)])-)?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:(?<=\d)\.?|\.(?=\d))\d*(?:/\d+)?\s?%?")
OPTION = re.compile(r"\(([A-J])\)|\b(?:option|choice)\s+([A-J])\b|(?:^|\n)\s*([A-J])[.):]?\s*(?:\n|$)")
JOINED = re.compile(r"[\s$,;.]*(?:\\text\{\s*)?(?:and|or|和|或)?(?:\s*\})?[\s$,;]*(?:[A-Za-z]\s*=\s*)?")
"""What may stand between boxes that make one answer."""
BARE = re.compile(r"[^\s$\\.,{}]+")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


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


def extract(answer: str, gold: Gold) -> Extracted | None:
    """The answer in a text without thoughts; what kind of answer the gold one is says where to look."""
    if BOX.search(answer):
        inside = last_boxes(answer) if gold.several else last_boxed(answer)
        return Extracted(inside, True) if inside else None
    marked = HASHES.findall(answer)
    if marked:
        return Extracted(marked[-1].strip(), True)
    numeric = gold.quantity is not None
    said = _after_phrase(answer)
    if said:
        return Extracted(_lone_number(said) or said if numeric else said, True)
    whole = answer.strip()
    short = 0 < len(whole) <= LONGEST_UNMARKED
    if gold.option:
        return _last(["".join(found) for found in OPTION.findall(answer)])
    if not numeric or (short and quantity(normalize(whole))):
        return Extracted(whole, False) if short else None
    return _last(_numbers(answer))


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` or `\boxed 5`; None when its braces never close or it is empty."""
    *_, box = BOX.finditer(text)
    content, _ = _content(text, box.end())
    return content


def last_boxes(text: str) -> str | None:
    """Contents of the last boxes that are joined to each other, as a list."""
    joined: list[str] = []
    end = 0
    for box in BOX.finditer(text):
        if box.start() < end:
            continue  # a box within a box
        if joined and not JOINED.fullmatch(text, end, box.start()):
            joined = []
        content, end = _content(text, box.end())
        if content is None:
            joined = []
            break
        joined.append(content)
    return ", ".join(joined) or None


def _content(text: str, start: int) -> tuple[str | None, int]:
    """What a box holds that opens at `start`, and where it ends."""
    if not text.startswith("{", start):
        bare = BARE.match(text, start)
        return (bare.group(), bare.end()) if bare else (None, len(text))
    depth = 0
    for found in BRACE.finditer(text, start):  # an escaped brace belongs to the answer
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth == 0:
            return text[start + 1 : found.start()].strip() or None, found.end()
    return None, len(text)


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


def _last(found: list[str]) -> Extracted | None:
    return Extracted(found[-1], False) if found else None
