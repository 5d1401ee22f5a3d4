r"""Readability: whether a person could read a completion at all.

What DeepSeek-R1's cold start was collected for (arXiv 2501.12948, section 2.3.1): a readable thought, and behind it an
answer that says something. Ten named checks: a slip halves the score, noise quarters it, so that one slip ranks above
noise and garbage, which fails several at once, ends near 0. The limits lie beyond 2,009 real completions
(docs/judge.md).
What is not covered: grammar, layout that is merely ugly, gibberish made of words one could say. Openings are counted
against closings, not matched one by one, and those of the thought are its own business.
"""

import re
from collections import Counter
from collections.abc import Sequence

from distill.judge.style.prose import CODE, SCRIPTS, Word, prose, words
from distill.judge.style.score import Style, quoted

WALL = 400
"""Most words (Chinese: characters) of one line, mathematics and code apart; the longest real one has 192."""
UNBROKEN = 100
"""Longest run of Latin characters without a space outside mathematics, code, addresses; the longest real one has 57."""
MARKS = 15
"""Same mark so many times in a row is one too many; the real ones end at nine closing parentheses."""
RULERS = "-=_*#~.·…–—+|"
"""Marks that rules and dots are made of; they may be as long as anything else without a space."""
LEAST_TEXT = 0.3
"""Least share of letters and digits among what is no space; the least real one is 0.63, sums in symbols have 0.45."""
UNSAYABLE = 0.1
"""Most Latin words with five consonants in a row among those of five letters or more; the most real ones are 0.07."""
MOST_SCRIPTS = 3
SCRIPT_FROM = 3
"""Words from which on a script is used rather than mentioned."""

BROKEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd-\uffff\ud800-\udfff\ue000-\uf8ff]")
CONTROL_TOKEN = re.compile(r"<\|\w{1,30}\|>|<｜[^｜\n]{1,30}｜>|\[/?INST\]|</?s>")
LONG_RUN = re.compile(rf"(?<![!-\u024f])[!-\u024f]{{{UNBROKEN + 1}}}")
SAME_MARKS = re.compile(rf"([^\w\s{re.escape(RULERS)}])\1{{{MARKS - 1},}}")
CONSONANTS = re.compile(r"[b-df-hj-np-tv-xz]{5}", re.IGNORECASE)
MONEY = re.compile(r"\$\d[\d,.]*+[kKMB]?(?![\w$\\^])")
PAIRS = ((r"\[", r"\]"), (r"\(", r"\)"), (r"\begin{", r"\end{"))
ESCAPED = re.compile(r"\\\\|\\[{}$]")


def readability(thought: str, answer: str) -> Style:
    """Check a completion's two parts; without a thought the answer is all there is."""
    text = f"{thought}\n{answer}".strip()
    if not text:
        return Style(0.0, "nothing to read")
    plain = prose(text)
    lines = [list(words(line)) for line in plain.split("\n")]
    said = [word for line in lines for word in line]
    formulas = ESCAPED.sub("", re.sub(CODE, "", answer, flags=re.DOTALL))
    noise = {
        "mostly symbols": _symbols(text),
        "words nobody could say": _unsayable(said),
        "too many scripts": _scripts(said),
    }
    slips = {
        "broken characters": _first(BROKEN.search(text)),
        "control tokens": _first(CONTROL_TOKEN.search(text)),
        "an endless token": _first(LONG_RUN.search(plain)),
        "a row of marks": _first(SAME_MARKS.search(text)),
        "a wall of words": _wall(lines),
        "formulas or code of the answer left open": _open(formulas, answer),
        "an answer that says nothing:": "" if any(map(str.isalnum, answer)) else quoted(answer),
    }
    found = [f"{name} {what}" for name, what in (noise | slips).items() if what]
    halvings = 2 * sum(map(bool, noise.values())) + sum(map(bool, slips.values()))
    return Style(0.5**halvings, ", ".join(found), {"flaws": len(found), "words": len(said)})


def _first(found: re.Match[str] | None) -> str:
    return quoted(found.group()) if found else ""


def _wall(lines: Sequence[Sequence[Word]]) -> str:
    longest = max(map(len, lines))
    return f"({longest} words)" if longest > WALL else ""


def _symbols(text: str) -> str:
    dense = "".join(text.split())
    share = sum(map(str.isalnum, dense)) / len(dense)
    return f"({share:.0%} letters and digits)" if share < LEAST_TEXT else ""


def _unsayable(said: Sequence[Word]) -> str:
    long = [word.text for word in said if word.script == "latin" and len(word.text) >= 5]
    odd = [word for word in long if CONSONANTS.search(word)]
    return quoted(" ".join(odd[:5])) if len(odd) > max(2, UNSAYABLE * len(long)) else ""


def _scripts(said: Sequence[Word]) -> str:
    counts = Counter("kana" if word.script == "han" else word.script for word in said)
    used = [script for script in SCRIPTS if counts[script] >= SCRIPT_FROM]
    return f"({', '.join(used)})" if len(used) > MOST_SCRIPTS else ""


def _open(formulas: str, answer: str) -> str:
    """The first sign of the answer that opens or closes alone. Dollars may be money."""
    if answer.count("```") % 2:
        return '"```"'
    for opening, closing in PAIRS:
        if formulas.count(opening) != formulas.count(closing):
            return f'"{opening}"'
    if formulas.count("$") % 2 and MONEY.sub("", formulas).count("$") % 2:
        return '"$"'
    depth = 0
    for brace in re.findall("[{}]", formulas):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return '"}"'
    return '"{"' if depth else ""
