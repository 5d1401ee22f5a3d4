"""Thought: other people's ways of marking a thought become ours.

Open-Thoughts and Sky-T1 write `<|begin_of_thought|>`, s1 `<|im_start|>think`, R1-Zero puts
`<answer>` tags behind its thought (DeepSeek-R1, table 1), Kimi writes `◁think▷`; others use
`<thinking>`, `<thought>` or `<reasoning>`. All become `<think> ... </think> answer`.
Only a mark that opens a text counts: the same word within it is part of what was said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.prompts import END_THINK, THINK


@dataclass(frozen=True, slots=True)
class Marks:
    """How one family of models brackets its thought and, perhaps, its answer."""

    opens: str
    closes: str
    answer_opens: str = ""
    answer_closes: str = ""


FOREIGN: Sequence[Marks] = (
    Marks("<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"),
    Marks("<|im_start|>think", "<|im_start|>answer"),
    Marks("◁think▷", "◁/think▷"),
    Marks("<thinking>", "</thinking>", "<answer>", "</answer>"),
    Marks("<thought>", "</thought>", "<answer>", "</answer>"),
    Marks("<reasoning>", "</reasoning>", "<answer>", "</answer>"),
)
OURS = Marks(THINK, END_THINK, "<answer>", "</answer>")


def with_our_tags(text: str) -> tuple[str, str]:
    """The text with `<think>` marks, and the mark it came with; "" where it has none.

    A thought that never closes stays open.
    """
    head = text.lstrip()
    for marks in FOREIGN:
        if head.startswith(marks.opens):
            thought, closed, answer = head.removeprefix(marks.opens).partition(marks.closes)
            whole = f"{THINK}{thought}{END_THINK}{_bare(answer, marks)}" if closed else f"{THINK}{thought}"
            return whole, marks.opens
    if END_THINK in text:
        thought, _, answer = text.partition(END_THINK)
        return f"{thought}{END_THINK}{_bare(answer, OURS)}", THINK if THINK in thought else END_THINK
    return text, THINK if head.startswith(THINK) else ""


def bare_thought(text: str) -> str:
    """A thought from a column of its own, without the marks some publishers leave around it."""
    for marks in (OURS, *FOREIGN):
        stripped = text.strip()
        if stripped.startswith(marks.opens):
            return stripped.removeprefix(marks.opens).removesuffix(marks.closes)
    return text


def _bare(answer: str, marks: Marks) -> str:
    """An answer without the tags that open and close the whole of it."""
    inside = answer.strip()
    if not marks.answer_opens or not inside.startswith(marks.answer_opens):
        return answer
    return "\n" + inside.removeprefix(marks.answer_opens).removesuffix(marks.answer_closes).strip()
