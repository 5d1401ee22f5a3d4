r"""Prose: the words of a completion, without mathematics, code and addresses.

Shared by the looks at readability, language and reflection. Letters of other scripts stay where mathematics is taken
out, so that `$...$` hides no sentence in Chinese. Every pattern is linear in the text: what repeats is possessive, and
what opens something stops at the next opening.
What is not covered: Latin words inside mathematics and whatever is said inside code are not seen; `\begin{..}` blocks
lose their commands only.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from distill.prompts import END_THINK, THINK, split_thought

SCRIPTS = {
    "latin": "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff",
    "han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f",
    "kana": "\u3041-\u30fa\u30fc-\u30ff\u31f0-\u31ff",
    "thai": "\u0e00-\u0e7f",
    "lao": "\u0e80-\u0eff",
    "myanmar": "\u1000-\u109f",
    "khmer": "\u1780-\u17ff",
    "hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "cyrillic": "\u0400-\u052f",
    "arabic": "\u0600-\u065f\u066e-\u06ef\u06fa-\u06ff\u0750-\u077f",
    "hebrew": "\u0590-\u05ff",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "devanagari": "\u0900-\u0965\u0970-\u097f",
    "bengali": "\u0980-\u09e5\u09f0-\u09ff",
    "gurmukhi": "\u0a00-\u0a65\u0a70-\u0a7f",
    "gujarati": "\u0a80-\u0ae5\u0af0-\u0aff",
    "tamil": "\u0b80-\u0be5",
    "telugu": "\u0c00-\u0c65",
    "kannada": "\u0c80-\u0ce5",
    "malayalam": "\u0d00-\u0d65",
    "georgian": "\u10a0-\u10ff",
    "armenian": "\u0530-\u058f",
    "ethiopic": "\u1200-\u137f",
}
"""Ranges of letters, without digits."""
UNSPACED = ("han", "kana", "thai", "lao", "myanmar", "khmer")
"""Scripts that put no space between words: each character counts as a word."""

CODE = r"```.*?(?:```|\Z)|`[^`\n]++`"
ADDRESS = r"(?:https?://|www\.)[!-~]++"
MATHEMATICS = (
    r"\\\[(?:[^\\]++|\\[^\[\]])*+\\\]"
    r"|\\\((?:[^\\]++|\\[^()])*+\\\)"
    r"|\$\$[^$]++\$\$"
    r"|\$[^$\n]++\$"
    r"|\\[A-Za-z]++"
)
HIDING = re.compile(
    rf"(?=[`hw<$\\])(?:{CODE}|{ADDRESS}|{THINK}|{END_THINK}|\\\$|(?P<mathematics>{MATHEMATICS}))", re.DOTALL
)
"""Here and below a look ahead at the first character changes no match and halves the time."""
BELOW_CYRILLIC = re.compile("[^\u0400-\U0010ffff]++")
WORD = re.compile(
    "(?=[A-Za-z\u00c0-\U0003134f])(?:"
    + "|".join(
        f"(?P<{script}>[{letters}]" + ("" if script in UNSPACED else rf"++(?:['’][{letters}]++)*+") + ")"
        for script, letters in SCRIPTS.items()
    )
    + ")"
)


class Word(NamedTuple):
    """One word and its script."""

    text: str
    script: str


def thought_and_answer(text: str, *, think_open: bool) -> tuple[str, str]:
    """Both parts of a completion without tags; a thought that never ends leaves no answer."""
    parts = split_thought(text, think_open=think_open)
    if parts.answer is None:
        return text.replace(THINK, " "), ""
    return parts.reasoning or "", parts.answer


def prose(text: str) -> str:
    """The text with a space for everything that is not prose."""
    return HIDING.sub(_other_scripts, text)


def words(prose: str) -> Iterator[Word]:
    """Words in reading order. Single letters of spaced scripts are variables, not words."""
    for found in WORD.finditer(prose):
        script = found.lastgroup or ""
        if script in UNSPACED or len(found.group()) > 1:
            yield Word(found.group(), script)


def _other_scripts(found: re.Match[str]) -> str:
    inside = found["mathematics"]
    return " " if not inside or inside.isascii() else f" {BELOW_CYRILLIC.sub(' ', inside)} "
