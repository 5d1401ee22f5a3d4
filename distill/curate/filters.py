"""Filters: which traces may be learned from, and the reason for every one that may not.

Each filter looks at one row and lets it pass or names a reason; rows arrive in a fixed
order, so the first of two equal ones stays. Does not change a row.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from distill.curate.decontaminate import HeldOut, Match, Shared, dropping
from distill.curate.normalize import squeezed
from distill.progress import Progress
from distill.prompts import Chat
from distill.records import Message, Problem, Record


@dataclass(frozen=True, slots=True)
class Row:
    """One trace on its way to becoming an example."""

    problem: Problem
    trace_id: str
    messages: tuple[Message, ...]
    """Prompt and assistant turn, as the student would see them."""
    finished: bool
    """Stopped by itself; a completion cut by the token limit does not end in an answer."""
    verdict: str
    """Status of its verdict, or `unjudged`."""
    why: str
    isolation: str | None
    """Programs only: how the candidate was kept apart from its judge."""

    @property
    def text(self) -> str:
        """What the student learns to say."""
        return self.messages[-1].content


class Dropped(Record):
    """A trace that did not become an example."""

    trace_id: str
    problem_id: str
    filter: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """`look` returns (reason, detail) to drop a row, None to keep it."""

    name: str
    look: Callable[[Row], tuple[str, str] | None]


@dataclass(slots=True)
class Count:
    """What one filter did."""

    name: str
    before: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def after(self) -> int:
        """Rows that passed."""
        return self.before - self.reasons.total()


@dataclass(frozen=True, slots=True)
class Sieved:
    """What is left, what is not, and the count of every filter in order."""

    kept: list[Row]
    dropped: list[Dropped]
    counts: list[Count]


def sieve(rows: Sequence[Row], filters: Sequence[Filter], progress: Progress) -> Sieved:
    """Pass each row through the filters until one drops it."""
    sieved = Sieved([], [], [Count(filter_.name) for filter_ in filters])
    with progress.task("curate", total=len(rows), unit="traces") as task:
        for row in rows:
            dropped = _first_drop(row, filters, sieved.counts)
            if dropped is None:
                sieved.kept.append(row)
            else:
                sieved.dropped.append(dropped)
            task.advance()
    return sieved


def _first_drop(row: Row, filters: Sequence[Filter], counts: Sequence[Count]) -> Dropped | None:
    for filter_, count in zip(filters, counts, strict=True):
        count.before += 1
        found = filter_.look(row)
        if found is not None:
            reason, detail = found
            count.reasons[reason] += 1
            return Dropped(
                trace_id=row.trace_id, problem_id=row.problem.id, filter=filter_.name, reason=reason, detail=detail
            )
    return None


def trainable() -> Filter:
    """A training text ends by itself, says something, and answers no test problem."""

    def look(row: Row) -> tuple[str, str] | None:
        if row.problem.split == "test":
            return "test-split", "its problem belongs to a test split"
        if not row.finished:
            return "unfinished", "cut by the token limit"
        if not row.text.strip():
            return "empty", "nothing left to learn"
        return None

    return Filter("trainable", look)


def verified(*, in_process: bool) -> Filter:
    """Only traces judged correct; `in_process` also believes a judge its program could reach."""
    forgeable = ("none",) if in_process else ("none", "in-process")

    def look(row: Row) -> tuple[str, str] | None:
        if row.verdict != "correct":
            return row.verdict, row.why
        if row.isolation in forgeable:
            return "not-isolated", f"the program could reach its judge ({row.isolation})"
        return None

    return Filter("verified", look)


def distinct() -> Filter:
    """One example a text and problem, white space aside."""
    seen: dict[tuple[str, str], str] = {}

    def look(row: Row) -> tuple[str, str] | None:
        key = squeezed(row.messages[0].content), squeezed(row.text)
        first = seen.setdefault(key, row.trace_id)
        return None if first == row.trace_id else ("duplicate", f"says the same as {first}")

    return Filter("distinct", look)


def clean(held_out: HeldOut, matches: list[Match]) -> Filter:
    """Nothing of a held-out problem in prompt or trace; every match is added to `matches`."""
    prompts: dict[str, list[Shared]] = {}

    def look(row: Row) -> tuple[str, str] | None:
        problem = row.problem
        if problem.id not in prompts:
            prompts[problem.id] = held_out.in_prompt(problem.prompt)
            matches.extend(_match(found, row, "prompt") for found in prompts[problem.id])
        if found := dropping(prompts[problem.id]):
            return "contaminated-prompt", f"shares words with {found.against_id}"
        shared = held_out.in_trace(row.text)
        matches.extend(_match(found, row, "trace") for found in shared)
        found = dropping(shared)
        return ("contaminated-trace", f"shares words with {found.against_id}") if found else None

    return Filter("clean", look)


def short_enough(chat: Chat, limit: int, lengths: dict[str, int]) -> Filter:
    """At most `limit` student tokens, prompt included; measured lengths are added to `lengths`."""

    def look(row: Row) -> tuple[str, str] | None:
        tokens = lengths[row.trace_id] = len(chat.training_ids(row.messages)[0])
        return ("too-long", f"{tokens} tokens, at most {limit}") if tokens > limit else None

    return Filter("short-enough", look)


def at_most(limit: int) -> Filter:
    """The first `limit` examples of a problem."""
    taken: Counter[str] = Counter()

    def look(row: Row) -> tuple[str, str] | None:
        taken[row.problem.id] += 1
        return ("over-quota", f"its problem has {limit} already") if taken[row.problem.id] > limit else None

    return Filter("at-most", look)


def _match(found: Shared, row: Row, where: Literal["prompt", "trace"]) -> Match:
    return found.match(where, row.problem.id, row.trace_id if where == "trace" else None)
