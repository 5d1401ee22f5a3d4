"""Decontaminate: find held-out problems in training prompts and traces.

Three ways to look, from wide to narrow:

- `13-gram`: any 13 consecutive words of a held-out prompt (the window of Brown et al.
  2020, appendix C), a held-out prompt of 8 to 12 words anywhere, or a prompt of the same
  words. Looks at prompts and at traces.
- `exact`: a prompt of the same words. Signs are not words: `3 + 4` and `3 - 4` are one.
- `by-construction`: a prompt equal up to white space. For procedural families whose test
  split is drawn by a stable hash and whose prompts share every phrase on purpose.

Does not find paraphrases or translations, nor a copied solution whose problem is not quoted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from distill.curate.normalize import squeezed, words
from distill.records import Problem, Record

Method = Literal["13-gram", "exact", "by-construction"]

WINDOW = 13
"""Words in a contamination window."""
SHORTEST = 8
"""Held-out prompts of fewer words are compared whole only: shorter ones occur by chance."""


class Match(Record):
    """Where a training text meets a held-out prompt."""

    where: Literal["prompt", "trace"]
    problem_id: str
    trace_id: str | None = None
    how: Literal["same", "13-gram", "short prompt"]
    span: str
    """The shared words."""
    against_id: str
    """A held-out problem that has them; there may be more."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A stretch of words found in a held-out prompt."""

    how: Literal["same", "13-gram", "short prompt"]
    span: str
    against_id: str

    def match(self, where: Literal["prompt", "trace"], problem_id: str, trace_id: str | None) -> Match:
        """The stretch with the text it was found in."""
        return Match(
            where=where,
            problem_id=problem_id,
            trace_id=trace_id,
            how=self.how,
            span=self.span,
            against_id=self.against_id,
        )


class HeldOut:
    """An index over the prompts no student may have seen."""

    def __init__(self, problems: Iterable[Problem], method: Method) -> None:
        self.method = method
        self._whole: dict[str, str] = {}
        self._windows: dict[int, dict[tuple[str, ...], str]] = {}
        self._known: set[str] = set()
        for problem in problems:
            self._whole.setdefault(self._key(problem.prompt), problem.id)
            if method == "13-gram":
                self._add_windows(problem)

    def in_prompt(self, prompt: str) -> list[Shared]:
        """What a training prompt shares with the held-out ones."""
        same = self._whole.get(self._key(prompt))
        if same is not None:
            return [Shared("same", squeezed(prompt), same)]
        return self.in_trace(prompt)

    def in_trace(self, text: str) -> list[Shared]:
        """Stretches of a trace that quote a held-out prompt; longest possible, none overlapping."""
        if not self._windows:
            return []
        return [found for run in self._familiar(words(text)) for found in self._stretches(run)]

    def _key(self, prompt: str) -> str:
        return squeezed(prompt) if self.method == "by-construction" else " ".join(words(prompt))

    def _add_windows(self, problem: Problem) -> None:
        said = words(problem.prompt)
        size = min(WINDOW, len(said))
        if size < SHORTEST:
            return
        windows = self._windows.setdefault(size, {})
        for start in range(len(said) - size + 1):
            windows.setdefault(tuple(said[start : start + size]), problem.id)
        self._known.update(said)

    def _familiar(self, said: Sequence[str]) -> Iterable[list[str]]:
        """Runs of words that all occur in held-out prompts: no window can reach across another word."""
        shortest = min(self._windows)
        run: list[str] = []
        for word in said:
            if word in self._known:
                run.append(word)
            else:
                if len(run) >= shortest:
                    yield run
                run = []
        if len(run) >= shortest:
            yield run

    def _stretches(self, run: list[str]) -> Iterable[Shared]:
        """Overlapping windows become one stretch."""
        begin = end = 0
        against = ""
        for start in range(len(run)):
            hit = self._hit(run, start)
            if hit is None:
                continue
            size, problem_id = hit
            if start >= end:
                if end:
                    yield _shared(run[begin:end], against)
                begin, end, against = start, start + size, problem_id
            end = max(end, start + size)
        if end:
            yield _shared(run[begin:end], against)

    def _hit(self, run: list[str], start: int) -> tuple[int, str] | None:
        for size, windows in self._windows.items():
            found = windows.get(tuple(run[start : start + size]))
            if found is not None:
                return size, found
        return None


def _shared(span: list[str], against_id: str) -> Shared:
    return Shared("13-gram" if len(span) >= WINDOW else "short prompt", " ".join(span), against_id)
