"""Looks: the five ways to look at a completion's style, by name, for rewards and filters."""

from typing import Literal, get_args

from distill.judge.style.form import form
from distill.judge.style.language import language
from distill.judge.style.prose import thought_and_answer
from distill.judge.style.readability import readability
from distill.judge.style.reflection import reflection
from distill.judge.style.repetition import repetition
from distill.judge.style.score import Style
from distill.records import Finish

Look = Literal["format", "readability", "language", "repetition", "reflection"]
LOOKS: tuple[Look, ...] = get_args(Look)


def styles(text: str, finish: Finish, *, think_open: bool = False, question: str | None = None) -> dict[Look, Style]:
    """Every look at a completion. `think_open`: the prompt had opened the think block. `question`: for the language."""
    thought, answer = thought_and_answer(text, think_open=think_open)
    return {
        "format": form(text, finish, think_open=think_open),
        "readability": readability(thought, answer),
        "language": language(thought, answer, question),
        "repetition": repetition(thought, answer),
        "reflection": reflection(thought, answer),
    }
