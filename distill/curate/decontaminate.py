"""Decontaminate: find held-out problems in training prompts and traces.

Four ways to look, from wide to none:

- `13-gram`: any 13 consecutive words of a held-out prompt (the window of Brown et al. 2020, appendix C), a held-out
  prompt of 8 to 12 words anywhere, or a prompt of the same words. Looks at prompts and at traces. Beside these,
  held-out prompts of fewer than 13 words are found with one word changed, added, left out or moved (`near`), and whole
  prompts with other numbers (`numbers-changed`).
- `exact`: a prompt of the same words. Signs are not words: `3 + 4` and `3 - 4` are one.
- `by-construction`: a prompt equal up to white space. For procedural families whose test split is drawn by a stable
  hash and whose prompts share every phrase on purpose. Held-out problems of such families are looked for like this
  under every method, where the hash bears them out.
- `none`: nothing is looked for; it has to be said twice (`check_told_twice`).

Does not find paraphrases or translations, other numbers within a trace, a copied solution whose problem is not quoted,
nor letters exchanged for others that look like them (Cyrillic for Latin).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from distill.curate.normalize import squeezed, words
from distill.problems.families import FAMILIES
from distill.problems.family import split_of
from distill.problems.variants import base_source
from distill.records import Problem, Record

Method = Literal["13-gram", "exact", "by-construction", "none"]
How = Literal["same", "13-gram", "short prompt", "near", "numbers-changed"]
Variants = Literal["drop", "flag", "off"]
"""What is done about a near match: dropped, listed only, or not looked for."""

UNCHECKED = "unchecked"
"""The mark of a set that curate was told twice not to check."""
WINDOW = 13
"""Words in a contamination window."""
SHORTEST = 8
"""Held-out prompts of fewer words are compared whole only: shorter ones occur by chance."""
SHORTEST_NEAR = 6
"""Held-out prompts of fewer words are compared exactly only: one word is the difference between two problems."""
GRAM, START = 4, 6
"""Words looked up at every place, and before a whole window is. One edit leaves GRAM words at one end of a prompt."""
TOLD = 4
"""Different words beside the numbers that a prompt says at least for its numbers to be what it differs in."""
NUMERALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million half"
)
COUNTING = frozenset(NUMERALS.split())
"""Numbers in words."""


class Match(Record):
    """Where a training text meets a held-out prompt."""

    where: Literal["prompt", "trace"]
    problem_id: str
    trace_id: str | None = None
    how: How
    span: str
    """The shared words."""
    against_id: str
    """A held-out problem that has them; there may be more."""
    drops: bool = True
    """False for what is listed only."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A stretch of words found in a held-out prompt."""

    how: How
    span: str
    against_id: str
    drops: bool = True
    """Whether a text is dropped for it."""
    also: tuple[str, ...] = ()
    """Other held-out problems that share words of this stretch."""

    def match(self, where: Literal["prompt", "trace"], problem_id: str, trace_id: str | None) -> Match:
        """The stretch with the text it was found in."""
        return Match(
            where=where,
            problem_id=problem_id,
            trace_id=trace_id,
            how=self.how,
            span=self.span,
            against_id=self.against_id,
            drops=self.drops,
        )


def check_told_twice(method: Method, accept_unchecked: bool) -> None:
    """Raise ValueError unless a set is checked, or said twice that it is not to be."""
    if method == "none" and not accept_unchecked:
        raise ValueError(
            'decontaminate: "none" would write a training set nobody compared with the benchmarks; '
            "set accept_unchecked = true as well if that is meant"
        )
    if accept_unchecked and method != "none":
        raise ValueError('accept_unchecked: only goes with decontaminate = "none"; this set is checked')


class HeldOut:
    """An index over the prompts no student may have seen."""

    def __init__(
        self,
        problems: Iterable[Problem],
        method: Method,
        *,
        near: Variants = "drop",
        numbers_changed: Variants = "flag",
    ) -> None:
        self.method = method
        self.near = near
        self.numbers_changed = numbers_changed
        self._whole: dict[tuple[str, ...], list[str]] = {}
        self._constructed: dict[str, list[str]] = {}
        self._windows: dict[int, dict[tuple[str, ...], list[str]]] = {}
        self._starts: set[tuple[str, ...]] = set()
        self._known: set[tuple[str, ...]] = set()
        self._ends: dict[tuple[str, ...], list[tuple[bool, list[str], str]]] = {}
        self._edits: dict[tuple[str, ...], str] = {}
        self._numberless: dict[tuple[str, ...], str] = {}
        for problem in problems if method != "none" else ():
            self._add(problem)

    def in_prompt(self, prompt: str) -> list[Shared]:
        """What a training prompt shares with the held-out ones."""
        same = self._constructed.get(squeezed(prompt))
        said = words(prompt) if self._whole else []
        same = same or self._whole.get(tuple(said))
        if same:
            return [Shared("same", squeezed(prompt), same[0], also=tuple(same[1:]))]
        found = self._in(said)
        known = {shared.against_id for shared in found}
        return found + [shared for shared in self._variants(prompt, said) if shared.against_id not in known]

    def in_trace(self, text: str) -> list[Shared]:
        """Stretches of a trace that quote a held-out prompt; longest possible, none overlapping."""
        return self._in(words(text)) if self._windows else []

    def _add(self, problem: Problem) -> None:
        if self.method == "by-construction" or constructed(problem):
            self._constructed.setdefault(squeezed(problem.prompt), []).append(problem.id)
            return
        said = words(problem.prompt)
        self._whole.setdefault(tuple(said), []).append(problem.id)
        if self.method != "13-gram":
            return
        size = min(WINDOW, len(said))
        if size >= SHORTEST:
            windows = self._windows.setdefault(size, {})
            for start in range(len(said) - size + 1):
                window = tuple(said[start : start + size])
                windows.setdefault(window, []).append(problem.id)
                self._starts.add(window[:START])
                self._known.add(window[:GRAM])
        if self.near != "off" and SHORTEST_NEAR <= len(said) < WINDOW:
            for edit in _edits(said):
                self._edits.setdefault(edit, problem.id)
            if len(said) >= SHORTEST:
                for heads, end in ((True, said[:GRAM]), (False, said[-GRAM:])):
                    self._ends.setdefault(tuple(end), []).append((heads, said, problem.id))
                    self._known.add(tuple(end))
        if self.numbers_changed != "off" and (key := _numberless(said)):
            self._numberless.setdefault(key, problem.id)

    def _variants(self, prompt: str, said: Sequence[str]) -> Iterator[Shared]:
        """Whole prompts that differ in a word or in numbers."""
        if self._numberless and (key := _numberless(said)) in self._numberless:
            drops = self.numbers_changed == "drop"
            yield Shared("numbers-changed", squeezed(prompt), self._numberless[key], drops)
        elif self._edits and SHORTEST_NEAR - 1 <= len(said) <= WINDOW:
            against = next((self._edits[edit] for edit in _edits(said) if edit in self._edits), None)
            if against:
                yield Shared("near", squeezed(prompt), against, self.near == "drop")

    def _in(self, said: list[str]) -> list[Shared]:
        if not self._windows:
            return []
        grams = zip(said, said[1:], said[2:], said[3:], strict=False)
        places = [place for place, gram in enumerate(grams) if gram in self._known]
        exact = list(self._stretches(said, places))
        near = list(self._near(said, places)) if self._ends else []
        apart = [stretch for stretch in near if not any(_overlap(stretch, other) for other in exact)]
        found = sorted([*exact, *apart], key=lambda stretch: stretch.start)
        return [stretch.shared(said, self.near == "drop") for stretch in found]

    def _stretches(self, said: list[str], places: Iterable[int]) -> Iterator["_Stretch"]:
        """Overlapping windows become one stretch."""
        open_: _Stretch | None = None
        for start in places:
            if tuple(said[start : start + START]) not in self._starts:
                continue
            for size, windows in self._windows.items():
                against = windows.get(tuple(said[start : start + size]))
                if against is None:
                    continue
                if open_ is not None and start < open_.end:
                    open_.end = max(open_.end, start + size)
                    open_.against.update(dict.fromkeys(against))
                else:
                    if open_ is not None:
                        yield open_
                    open_ = _Stretch(start, start + size, dict.fromkeys(against))
        if open_ is not None:
            yield open_

    def _near(self, said: list[str], places: Iterable[int]) -> Iterator["_Stretch"]:
        """Short prompts with one word changed, added or left out."""
        end = 0
        for place in places:
            for heads, prompt, against in self._ends.get(tuple(said[place : place + GRAM]), ()):
                for size in (len(prompt), len(prompt) + 1, len(prompt) - 1):
                    start = place if heads else place + GRAM - size
                    if start < end or start + size > len(said):
                        continue
                    if _one_edit(prompt, said[start : start + size]):
                        end = start + size
                        yield _Stretch(start, end, {against: None}, near=True)
                        break


@dataclass(slots=True)
class _Stretch:
    """Words from `start` to `end` that held-out prompts have."""

    start: int
    end: int
    against: dict[str, None]
    """Their ids in the order of meeting, each once."""
    near: bool = False

    def shared(self, said: Sequence[str], near_drops: bool) -> Shared:
        how: How = "near" if self.near else "13-gram" if self.end - self.start >= WINDOW else "short prompt"
        first, *also = self.against
        span = " ".join(said[self.start : self.end])
        return Shared(how, span, first, near_drops or not self.near, tuple(also))


def constructed(problem: Problem) -> bool:
    """A problem of a procedural family that stands where the hash of its prompt puts it."""
    return base_source(problem.source) in FAMILIES and split_of(problem.prompt) == problem.split


def dropping(found: Iterable[Shared]) -> Shared | None:
    """The first match a text is dropped for; None when all are flagged only."""
    return next((shared for shared in found if shared.drops), None)


def _overlap(one: _Stretch, other: _Stretch) -> bool:
    return one.start < other.end and other.start < one.end


def _edits(said: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The words, and the words without one of them that is no number (deletions as in Garbe's SymSpell).

    Two texts that share one differ in a word that is changed, added, left out or moved.
    """
    yield tuple(said)
    for place, word in enumerate(said):
        if not _counts(word):
            yield (*said[:place], *said[place + 1 :])


def _one_edit(prompt: Sequence[str], text: Sequence[str]) -> bool:
    """Whether exactly one word that is no number was changed, added or left out."""
    short, long = sorted((prompt, text), key=len)
    same = 0
    while same < len(short) and short[same] == long[same]:
        same += 1
    if same == len(long):
        return False
    if len(short) == len(long):
        return short[same + 1 :] == long[same + 1 :] and not _counts(short[same]) and not _counts(long[same])
    return short[same:] == long[same + 1 :] and not _counts(long[same])


def _counts(word: str) -> bool:
    return any(map(str.isdigit, word)) or word in COUNTING


def _numberless(said: Sequence[str]) -> tuple[str, ...]:
    """The words with one mark for every run of numbers; nothing when there is none, or little beside it."""
    told: list[str] = []
    for word in said:
        mark = "0" if _counts(word) else word
        if mark != "0" or told[-1:] != ["0"]:
            told.append(mark)
    return tuple(told) if "0" in told and len(set(told)) > TOLD else ()
