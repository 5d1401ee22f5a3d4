"""Filters: which traces may be learned from, seen one by one, and the reason for every one that may not.

A filter looks at one trace and lets it pass or says why not; it knows no other trace. Filters
of what a text says are in `distill.curate.content`; steps over the whole set are not here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from distill.curate.content.finding import Finding, Text
from distill.curate.decontaminate import HeldOut
from distill.curate.row import Row
from distill.errors import shown
from distill.prompts import Chat
from distill.records import Message
from distill.selection import Instruction, asking


@dataclass(frozen=True, slots=True)
class Seen:
    """One trace with all that is known of it while its text is in hand."""

    row: Row
    text: Text
    why: str
    """What the judge said of its verdict."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A named step; `look` answers None to let a trace pass."""

    name: str
    look: Callable[[Seen], Finding | None]


def trainable(seen: Seen) -> Finding | None:
    """A training text ends by itself, says something, and answers no test problem."""
    if seen.row.split == "test":
        return Finding("test-split", "test", None, "its problem belongs to a test split")
    if seen.row.finish != "stop":
        return Finding("unfinished", seen.row.finish, None, "cut by the token limit")
    if not seen.text.whole.strip():
        return Finding("empty", 0, 1, "nothing left to learn")
    return None


def verified(*, in_process: bool) -> Callable[[Seen], Finding | None]:
    """Only traces judged correct; `in_process` also believes a judge its program could reach."""
    forgeable = ("none",) if in_process else ("none", "in-process")

    def look(seen: Seen) -> Finding | None:
        row, gold = seen.row, seen.text.problem.answer
        if row.status != "correct":
            value = "no answer" if row.extracted is None else shown(row.extracted)
            return Finding(row.status, value, None if gold is None else shown(gold), seen.why)
        if row.isolation in forgeable:
            return Finding("not-isolated", str(row.isolation), "process", "the program could reach its judge")
        return None

    return look


class Clean:
    """Nothing of a held-out problem in prompt or trace. Says what it met first; all of it is in `matches`."""

    name = "clean"

    def __init__(self, held_out: HeldOut) -> None:
        self.held_out = held_out
        self._prompts: dict[int, str | None] = {}
        """By problem: the held-out problem its prompt meets."""

    def look(self, seen: Seen) -> Finding | None:
        """The first match of the prompt, else of the trace."""
        number = seen.row.problem
        if number not in self._prompts:
            found = self.held_out.in_prompt(seen.text.problem.prompt)
            self._prompts[number] = found[0].against_id if found else None
        against = self._prompts[number]
        if against is not None:
            return Finding("contaminated-prompt", against, None, f"its prompt shares words with {against}")
        shared = self.held_out.in_trace(seen.text.whole)
        if shared:
            against = shared[0].against_id
            return Finding("contaminated-trace", against, None, f"it shares words with {against}")
        return None


def short_enough(chat: Chat, instruction: Instruction, limit: int) -> Callable[[Seen], Finding | None]:
    """At most `limit` student tokens, prompt included; whole traces or nothing. The count stays in the row."""
    ask = asking(instruction)

    def look(seen: Seen) -> Finding | None:
        messages = (*ask(seen.text.problem), Message(role="assistant", content=seen.text.whole))
        tokens = seen.row.tokens = len(chat.training_ids(messages)[0])
        return Finding("too-long", tokens, limit, f"{tokens:,} student tokens") if tokens > limit else None

    return look


def likely_enough(max_perplexity: float) -> Callable[[Seen], Finding | None]:
    """No harder for the student than that; of what nobody measured nothing is known, so it is not let through."""

    def look(seen: Seen) -> Finding | None:
        perplexity = seen.row.perplexity
        if perplexity is None:
            return Finding("unmeasured", "none", max_perplexity, "the first of `measures` has no loss of it")
        if perplexity > max_perplexity:
            return Finding("too-surprising", perplexity, max_perplexity, f"perplexity {perplexity:.4g}")
        return None

    return look
