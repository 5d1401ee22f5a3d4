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
from distill.prompts import END_THINK, THINK

LONGEST_UNMARKED = 200
"""Characters of an unmarked text that can still be an answer rather than prose."""

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
HASHES = re.compile(r"####[ \t]*([^\n]+)")
PHRASE = re.compile(
    r"\banswers?\s*(?:is|are|was|:|=|\*\*:)\s*(?:\*\*)?\s*:?\s*(?:option|choice)?\s*"
    r"|(?:答案|结果)\s*(?:应该|应)?\s*(?:是|为|等于|:|：)\s*[:：]?\s*",
    re.IGNORECASE,
)
LABEL = re.compile(r"^\**(?:final\s+)?answer\**\s*[:：]\s*", re.IGNORECASE)
SENTENCE_END = re.compile(r"\.(?=\s|$)|\n|。|；")
LONGEST_SENTENCE = 2000
"""Characters read behind a phrase."""
EXPLAINING = re.compile(r"[,;(]\s|\b(?:because|since|not|as|so)\b")
CLOSED_FORM = re.compile(r"\\(?!text|mathrm|mbox|[$%,;!: ])[A-Za-z]|\^|[A-Za-z]\(")
NUMBER = re.compile(
    r"\$([^$\n]*(?:\\[A-Za-z]|[\^_])[^$\n]*)\$"  # a formula
    r"|-?\\[dt]?frac\s*(?:\{-?\d+\}|\d)\s*(?:\{\d+\}|\d)"
    r"|(?:(?<![\w.)])-)?\$?(?<![\^_{A-Za-z\d.])(?:\d{1,3}(?:,\d{3})+|\d+)?(?:(?<=\d)\.?|\.(?=\d))\d*(?:/\d+)?\s?%?"
)
OPTION = re.compile(
    r"\b(?:option|choice|answer|choose|select|pick|is|be)\s+\(?([A-J])\)?(?![A-Za-z'])"
    r"|(?:选项?|选择|故选|答案是?)\s*[:：]?\s*\(?([A-J])\)?"
    r"|\(?\b([A-J])\)? is (?:the )?(?:correct|right|answer)"
    r"|\(([A-J])\)|(?:^|\n)\s*\**([A-J])[.):]?\**\s*(?:\n|$)"
)
LONGEST_JOINT = 60
"""Characters between boxes that make one answer."""
JOINED = re.compile(r"[\s$,;.]*(?:\\text\{\s*)?(?:and|or|和|或)?(?:\s*\})?[\s$,;]*(?:[A-Za-z]\s*=\s*)?")
"""What may stand between boxes that make one answer."""
BARE = re.compile(r"[^\s$\\.,{}]+")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer found, and whether it is all of it even if the text was cut."""

    text: str
    whole: bool


def final_part(answer: str) -> str | None:
    """What is left after further think blocks; None when one of them never ends."""
    rest = answer.rpartition(END_THINK)[2]
    return None if THINK in rest else rest.strip()


def extract(answer: str, gold: Gold) -> Extracted | None:
    """The answer in a text without thoughts; what kind of answer the gold one is says where to look."""
    if BOX.search(answer):
        inside = last_boxes(answer) if gold.several else last_boxed(answer)
        return Extracted(inside, True) if inside else None
    answer = answer.replace("−", "-")
    for find in (_after_hashes, _after_phrase):
        said = find(answer, gold)
        if said:
            return said
    whole = answer.strip()
    short = 0 < len(whole) <= LONGEST_UNMARKED
    if gold.option:
        return _last([next(filter(None, found)) for found in OPTION.findall(answer)])
    if gold.quantity is None or (short and quantity(normalize(whole))):
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
        if joined and (box.start() - end > LONGEST_JOINT or not JOINED.fullmatch(text, end, box.start())):
            joined = []
        content, end = _content(text, box.end())
        if content is None:
            joined = []
            break
        joined += [] if content in joined else [content]
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


def _after_hashes(text: str, gold: Gold) -> Extracted | None:
    """The last `#### ` that is followed by an answer; other headings are written the same way."""
    for found in reversed(list(HASHES.finditer(text))):
        said = LABEL.sub("", found.group(1)).strip(" *")
        if quantity(normalize(said)) if gold.quantity else not text[found.end() :].strip():
            return Extracted(said, found.end() < len(text))
    return None


def _after_phrase(text: str, gold: Gold) -> Extracted | None:
    """What follows the last "answer is" that says something."""
    for phrase in reversed(list(PHRASE.finditer(text))):
        rest = text[phrase.end() : phrase.end() + LONGEST_SENTENCE]
        end = SENTENCE_END.search(rest)
        said = (rest[: end.start()] if end else rest).strip(" *_:")
        if gold.quantity and not quantity(normalize(said)):
            number = _number_in(said)
            said = number or (said if any(map(str.isdigit, said)) else "")
        if said:
            return Extracted(said, end is not None)
    return None


def _number_in(said: str) -> str | None:
    """The one number of a wordy answer, behind the last equals sign, or before it is explained."""
    for part in (said.rpartition("=")[2], EXPLAINING.split(said)[0], said):
        numbers = _numbers(part)
        if len(numbers) == 1 and not CLOSED_FORM.search(part):
            return numbers[0]
    return None


def _numbers(text: str) -> list[str]:
    """Numbers of a text; the mathematics a number is only a part of stands for it."""
    found = []
    for each in NUMBER.finditer(text):
        formula = each.group(1)
        said = formula.rpartition("=")[2].strip() if formula else each.group().strip()
        if any(map(str.isdigit, said)):
            found.append(said)
    return found


def _last(found: list[str]) -> Extracted | None:
    return Extracted(found[-1], False) if found else None
