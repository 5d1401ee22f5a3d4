"""One row as it will be learned: what carries loss stands out, in color or without.

On a terminal learned tokens are green and the rest dim; elsewhere each stretch is a block of its own, `read |` or
`learn |`. Text of examples is foreign: control characters are spelled out, and it never becomes markup.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from distill.train.rows import IGNORED, Rows

SHOWN = 600
"""Characters of a stretch; the middle of a longer one is left out."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A row in stretches."""

    place: str
    tokens: int
    learned: int
    stretches: tuple[tuple[str, bool], ...]
    """Text, and whether it carries loss."""

    @property
    def head(self) -> str:
        """Which row, and how much of it is learned."""
        return f"{self.place}: {self.tokens:,} tokens, {self.learned:,} carry loss"

    @property
    def plain(self) -> str:
        """Without color."""
        lines = [self.head]
        for text, learned in self.stretches:
            mark = "learn" if learned else "read "
            lines += [f"  {mark} | {line}" for line in text.split("\n")]
        return "\n".join(lines)

    @property
    def colored(self) -> Text:
        """Learned green, the rest dim."""
        whole = Text(self.head + " (green)\n  ")
        for text, learned in self.stretches:
            whole.append(text.replace("\n", "\n  "), style="bold green" if learned else "dim")
        return whole

    def print(self, console: Console) -> None:
        """As the console can."""
        if console.is_terminal and not console.no_color:
            console.print(self.colored, soft_wrap=True)
        else:
            console.print(self.plain, markup=False, highlight=False, soft_wrap=True)


def show(rows: Rows, row: int, tokenizer: Any) -> Shown:
    """A row of the training set."""
    ids, labels = rows.token_ids[row], rows.labels[row]
    stretches = []
    for learned, group in groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != IGNORED):
        text = tokenizer.decode([token for token, _ in group], skip_special_tokens=False)
        stretches.append((_safe(text), learned))
    return Shown(rows.places[row], len(ids), sum(label != IGNORED for label in labels), tuple(stretches))


def _safe(text: str) -> str:
    """Printable, and not longer than `SHOWN`."""
    if len(text) > SHOWN:
        half = SHOWN // 2
        text = f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"
    return "".join(_spelled(text))


def _spelled(text: str) -> Iterator[str]:
    for letter in text:
        yield letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1]
