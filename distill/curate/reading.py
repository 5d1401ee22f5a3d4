"""Reading: every trace of the ledgers once, as light rows, with what the filters of single texts say.

The text of a trace is in memory while its filters look at it and no longer. Filters stop at
the first objection. Those that stand behind the steps over the whole set in the order of
steps look here too, while the text is in hand; what they say waits until those steps are done.
Content filters take the most time and look at many texts at once (`looking`).
Rows come out in the order of problems, rounds and samples, whatever the order in the ledgers.
"""

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from distill.curate.content.finding import Finding, Text
from distill.curate.filters import Filter, Seen
from distill.curate.looking import Said
from distill.curate.normalize import squeezed
from distill.curate.questions import Questions
from distill.curate.row import UNJUDGED, Measured, Row
from distill.curate.sources import Sources
from distill.errors import UserError
from distill.harvest.draw import TRACES, VERDICTS
from distill.judge.votes import voiced
from distill.ledger import read_ledger, read_placed
from distill.progress import Progress, Task
from distill.prompts import THINK, join_thought
from distill.records import Finish, Params, Record, SamplerId, Status
from distill.simhash import sketch


class Spoken(Record):
    """The part of a `Trace` curate looks at: token ids and log-probabilities are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    id: str
    problem_id: str
    sampler: SamplerId
    params: Params | None
    round: int = 0
    sample_index: int
    reasoning: str | None = None
    answer: str | None = None
    text: str
    finish: Finish
    think_open: bool = False
    completion_tokens: int

    def say(self, thought: Literal["keep", "drop"]) -> str:
        """What the student is to say: thought and answer, or as it came when the thought never closed."""
        if thought == "drop":
            return self.answer or ""
        if self.answer is not None:
            return join_thought(self.reasoning, self.answer)
        return f"{THINK} {self.text}" if self.think_open else self.text


class Ruling(Record):
    """The part of a `Verdict` curate looks at."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    trace_id: str
    status: Status
    extracted: str | None = None
    why: str = ""
    isolation: str | None = None


Ruled = tuple[str, str | None, str | None, str]
"""Status, extracted answer, isolation, and why it is not correct."""
NO_RULING: Ruled = (UNJUDGED, None, None, "")


@dataclass(slots=True)
class Reading:
    """All rows, and what was said while their texts were in hand."""

    sources: Sources
    rows: list[Row] = field(default_factory=list)
    early: dict[str, tuple[str, Finding]] = field(default_factory=dict)
    """By trace: step and finding that dropped it before the steps over the whole set."""
    late: dict[str, tuple[str, Finding]] = field(default_factory=dict)
    """By trace: step and finding that will drop it behind them, if nothing else does."""


class Reader:
    """Reads run folders with the filters in front of and behind the steps over the whole set."""

    def __init__(
        self,
        questions: Questions,
        thought: Literal["keep", "drop"],
        *,
        early: Sequence[Filter],
        content: Callable[[Iterable[tuple[Seen, Text]]], Iterator[tuple[Seen, Said]]] | None,
        late: Sequence[Filter],
        measures: Sequence[dict[str, Measured]] = (),
        sketched: bool = False,
        voiced: bool = False,
    ) -> None:
        self.questions, self.thought, self.early, self.late, self.measures = questions, thought, early, late, measures
        self.content = content
        """What content filters say of texts, in their order; None when there are none."""
        self.sketched, self.voiced = sketched, voiced
        """Whether rows get a sketch of their text, and a vote where no gold answer told the judge where to look."""
        self._reading = Reading(Sources())
        self._seen: set[str] = set()
        self._strangers: list[str] = []

    def read(self, folders: Sequence[Path], progress: Progress) -> Reading:
        """Every trace once: of one id in several folders, or twice in one, the first stays.

        Raises UserError when a trace answers none of the problems.
        """
        with progress.task("curate: reading", unit="traces") as task:
            passed = ((seen, seen.text) for seen in self._taken(folders, task) if not self._drops(seen))
            for seen, said in self.content(passed) if self.content else ((seen, None) for seen, _ in passed):
                if said is not None:
                    self._reading.early[seen.row.trace_id] = said
                elif (said := _first(self.late, seen)) is not None:
                    self._reading.late[seen.row.trace_id] = said
        if self._strangers:
            where = ", ".join(str(path) for path in self.questions.paths)
            raise UserError(
                f"{where}: has no problem {self._strangers[0]!r}, which {len(self._strangers):,} traces answer; "
                f"expected the problems the traces were harvested from"
            )
        self._seen.clear()
        rows = self._reading.rows
        as_asked(rows)
        _count_attempts(rows, len(self.questions))
        return self._reading

    def _taken(self, folders: Sequence[Path], task: Task) -> Iterator[Seen]:
        for ledger, folder in enumerate(folders):
            rulings = _rulings(folder)
            for shard, offset, spoken in read_placed(folder / TRACES, Spoken):
                if spoken.id not in self._seen:
                    self._seen.add(spoken.id)
                    seen = self._take(spoken, rulings.pop(spoken.id, NO_RULING), (ledger, shard, offset))
                    if seen is not None:
                        yield seen
                task.advance()

    def _drops(self, seen: Seen) -> bool:
        """Whether one of the filters in front objects."""
        said = _first(self.early, seen)
        if said is not None:
            self._reading.early[seen.row.trace_id] = said
        return said is not None

    def _take(self, spoken: Spoken, ruled: Ruled, place: tuple[int, int, int]) -> Seen | None:
        status, extracted, isolation, why = ruled
        self._reading.sources.count(spoken.sampler, spoken.params, status)
        number = self.questions.find(spoken.problem_id)
        if number is None:
            self._strangers.append(spoken.problem_id)
            return None
        problem, whole = self.questions[number], spoken.say(self.thought)
        row = Row(
            trace_id=spoken.id,
            problem=number,
            ledger=place[0],
            shard=place[1],
            offset=place[2],
            source=sys.intern(problem.source),
            origin=sys.intern(f"{spoken.sampler.name} {spoken.sampler.revision}"),
            split=sys.intern(problem.split),
            level=problem.level,
            subject=None if problem.subject is None else sys.intern(problem.subject),
            kind=sys.intern(problem.kind),
            round=spoken.round,
            sample_index=spoken.sample_index,
            finish=sys.intern(spoken.finish),
            status=status,
            extracted=voiced(problem.kind, spoken.answer) if self.voiced and extracted is None else extracted,
            isolation=isolation,
            characters=len(whole),
            completion_tokens=spoken.completion_tokens,
            tokens=None,
            digest=digest(problem.prompt, whole),
            sketch=sketch(whole) if self.sketched else 0,
            measures=tuple(found.pop(spoken.id, None) for found in self.measures),
        )
        self._reading.rows.append(row)
        return Seen(row, Text(problem, spoken.reasoning, spoken.answer, whole, spoken.id), why)


def _first(filters: Sequence[Filter], seen: Seen) -> Said:
    """The first objection, and whose it is."""
    objections = ((filter_.name, filter_.look(seen)) for filter_ in filters)
    return next(((name, finding) for name, finding in objections if finding is not None), None)


def as_asked(rows: list[Row]) -> None:
    """Sort by problem, round, sample and id, one after another from the last: no key is made for a row."""
    for name in ("trace_id", "sample_index", "round", "problem"):
        rows.sort(key=attrgetter(name))


def digest(prompt: str, text: str) -> int:
    """128 bits of BLAKE2b over both, white space aside."""
    both = f"{squeezed(prompt)}\n{squeezed(text)}"
    hashed = blake2b(both.encode("utf-8", "surrogatepass"), digest_size=16)
    return int.from_bytes(hashed.digest(), "big")


def _rulings(folder: Path) -> dict[str, Ruled]:
    """By trace; the last verdict counts."""
    return {
        ruling.trace_id: (
            sys.intern(ruling.status),
            ruling.extracted,
            None if ruling.isolation is None else sys.intern(ruling.isolation),
            "" if ruling.status == "correct" else sys.intern(ruling.why),
        )
        for ruling in read_ledger(folder / VERDICTS, Ruling)
    }


def _count_attempts(rows: Sequence[Row], problems: int) -> None:
    attempts, correct = array("Q", bytes(8 * problems)), array("Q", bytes(8 * problems))
    for row in rows:
        attempts[row.problem] += row.status != UNJUDGED
        correct[row.problem] += row.status == "correct"
    for row in rows:
        row.attempts, row.correct = attempts[row.problem], correct[row.problem]
