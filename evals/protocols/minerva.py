r"""Minerva's reading: what stands behind "The final answer is", normalized (arXiv:2206.14858, appendix D.1).

The rules are those of the paper with the repairs of lm-evaluation-harness 0.4.13: unit words are taken out while
spaces still part them and never within a command, indexed roots keep their index, and only commas between groups of
three digits go. Checked against the harness on all 5,000 MATH test answers and on recorded ones (docs/bench.md).
Two answers are the same when equal as text, or by algebra (our judge's, in place of sympy's LaTeX reader).
"""

import re

FINAL = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")
ENDING = "I hope it is correct."
"""Put behind every text, so that one cut before it still has an answer."""
REPLACED = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    (r"\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (r",\text{and}", ","),
    (r"\text{and}", ","),
    (r"\text{m}", r"\text{}"),
)
WORDS = re.findall(
    r"\w+",
    "square ways integers dollars mph inches ft hours km units sue points feet minutes digits cents degrees cm gm "
    "pounds meters meals edges students childrentickets multiples",
)
MARKS = (
    r"\ldots",
    r"\text{s}",
    r"\text{.}",
    "\\text{\ns}",
    r"\text{}^2",
    r"\text{}^3",
    "\\text{\n}",
    r"\text{}",
    r"\mathrm{th}",
    r"^\circ",
    r"^{\circ}",
    r"\;",
    r",\!",
    "{,}",
    '"',
    r"\dots",
)
REMOVED = (*WORDS[:10], MARKS[0], *WORDS[10:], *MARKS[1:])
"""In this order: one removal can make room for the next."""
UNWRAPPED = (
    (r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$"),
    (r"(\\text\{)(.*?)(\})", r"\2"),
    (r"(\\textbf\{)(.*?)(\})", r"\2"),
    (r"(\\overline\{)(.*?)(\})", r"\2"),
    (r"(\\boxed\{)(.*)(\})", r"\2"),
    (r"(frac)([^{])(.)", r"frac{\2}{\3}"),
    (r"(sqrt)(\[[^\]]*\])(\w)", r"\1\2{\3}"),
    (r"(sqrt)(?!\[)([^{])", r"sqrt{\2}"),
)
COMMAND = re.compile(r"(\\[a-zA-Z]+)")
GROUPED = re.compile(r"-?\d{1,3}(,\d{3})+")
PLAIN = re.compile(
    r"(?!.*(?:\\(?:begin|left|in|cup|cap|text|infty|pm)(?![a-z])|[,;:=<>\[\]|]))[^()]*(?:\([^(),]*\)[^()]*)*"
)
"""An expression sympy's reader takes: no list, pair, interval, matrix, relation or words."""


def final_answer(text: str) -> str | None:
    """The answer as it was said; None where the phrase is missing."""
    found = FINAL.search(text + ENDING)
    return found.group(1).strip() if found else None


def normalized(answer: str) -> str:
    """By the paper's rules."""
    answer = answer.split("=")[-1]
    for word in WORDS:
        answer = re.sub(rf"(?<!\\)\b{word}\b", "", answer)
    for old, new in REPLACED:
        answer = answer.replace(old, new)
    for mark in REMOVED:
        answer = _outside_commands(answer, mark) if mark.isalpha() else answer.replace(mark, "")
    for pattern, new in UNWRAPPED:
        answer = re.sub(pattern, new, answer)
    answer = answer.replace("$", "")
    return answer.replace(",", "") if GROUPED.fullmatch(answer) else answer


def _outside_commands(text: str, word: str) -> str:
    """Units glued to their surroundings go, but `\\left` keeps its `ft`."""
    parts = COMMAND.split(text)
    return "".join(part if place % 2 else part.replace(word, "") for place, part in enumerate(parts))


def plain(answer: str) -> bool:
    """Whether algebra may be asked about it; everything else is equal as text or not at all."""
    return PLAIN.fullmatch(answer) is not None
