"""Walk: the traces of an import, in the order of their rows, always the same ones.

Ids depend on the files and the table alone: a problem is named by its column or by a hash of
its text, a trace by problem, teacher and how many of that teacher's traces to it came before.
So an import that was killed is walked again from the start, and what the ledger holds is the
beginning of the same sequence. Memory holds an id and a hash for each problem, no texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from distill.curate.normalize import squeezed
from distill.errors import UserError, shown
from distill.imports.config import ImportConfig
from distill.imports.foreign import BadRowError, Foreign, foreign_traces
from distill.imports.layouts import SAMPLE, Found, find_layout
from distill.imports.reading import Raw, read_rows
from distill.ledger import trace_id
from distill.prompts import to_trace
from distill.records import Message, Problem, SamplerId, Tests, Trace, fingerprint
from distill.selection import read_problems


@dataclass(frozen=True, slots=True)
class Line:
    """One trace with all that belongs to it."""

    problem: Problem
    new: bool
    """No earlier line of this walk has this problem."""
    trace: Trace
    label: bool | None
    foreign: Foreign


@dataclass(frozen=True, slots=True)
class Taken:
    """What one row came to: its lines, or the reason why it has none."""

    raw: Raw
    lines: tuple[Line, ...]
    why: str = ""


class Walk:
    """The rows of an import as problems and traces; every walk gives the same."""

    def __init__(self, config: ImportConfig, files: Sequence[Path], problems: Path | None, revision: str) -> None:
        """Recognizes the layout by the first rows. Raises UserError where that is not possible.

        `revision` names the content of the files, for traces of teachers without a version.
        """
        self.config, self.files = config, files
        self.revision = config.teacher_revision or revision
        first = list(islice(read_rows(config, files), SAMPLE))
        sample = [raw.row for raw in first if not raw.why]
        where = str(files[0]) if files else str(config.dataset)
        if not sample:
            why = f"; {first[0].where}: {first[0].why}" if first else ", it is empty"
            raise UserError(f"{where}: no row that can be read among the first {SAMPLE}{why}")
        self.layout: Found = find_layout(sample, config.layout, config.map, where)
        columns = self.layout.columns
        if config.teacher is None and "teacher" not in columns:
            raise UserError(f"{where}: teacher: missing; say who wrote the traces, by name or by a column of the map")
        self.known: dict[str, Problem] = {}
        self.by_prompt: dict[str, Problem] = {}
        if problems is not None:
            self.known = {problem.id: problem for problem in read_problems(problems)}
            self.by_prompt = {squeezed(problem.prompt): problem for problem in self.known.values()}
        elif "prompt" not in columns and "turns" not in columns:
            raise UserError(
                f"{where}: no column holds the question; map it (prompt=COLUMN), "
                "or name the problems that the column problem_id speaks of (problems)"
            )

    def __iter__(self) -> Iterator[Taken]:
        return _Walking(self).rows()

    def lines(self) -> Iterator[Line]:
        """The traces alone; bad rows are passed over."""
        return (line for taken in self for line in taken.lines)


class _Walking:
    """The state of one walk."""

    def __init__(self, walk: Walk) -> None:
        self.walk, self.config = walk, walk.config
        self.contents: dict[str, str] = {}
        """Per problem id a hash of what it is."""
        self.counts: dict[tuple[str, str], int] = {}
        self.last: Problem | None = None

    def rows(self) -> Iterator[Taken]:
        for raw in read_rows(self.config, self.walk.files):
            if raw.why:
                yield Taken(raw, (), raw.why)
                continue
            try:
                said = foreign_traces(raw.row, self.walk.layout.columns, self.config)
                problems = [self._problem(one) for one in said]
            except (BadRowError, UserError) as error:
                yield Taken(raw, (), str(error))
                continue
            yield Taken(raw, tuple(self._line(*pair) for pair in zip(problems, said, strict=True)))

    def _problem(self, said: Foreign) -> Problem:
        """What was asked. Raises BadRowError when nothing says so, or two rows disagree about it."""
        if said.teacher is None:
            raise BadRowError("teacher: nobody says who wrote it")
        found = self._known(said)
        if found is None and said.prompt is None:
            if self.last is None or said.problem_id is None or self._id(said.problem_id) != self.last.id:
                raise BadRowError("no question in it, nor in a row of the same problem_id right above")
            found = self.last
        if found is None:
            gold = said.gold
            content = _content(said.prompt, gold, said.tests)
            id = self._id(said.problem_id or content)
            if self.contents.get(id, content) != content:
                raise BadRowError(f"problem_id {shown(said.problem_id)}: an earlier row asks something else under it")
            found = Problem(
                id=id,
                kind="code" if said.tests else "open" if gold is None else "answer",
                prompt=said.prompt or "",
                answer=gold,
                tests=said.tests,
                source=self.config.source,
                split=self.config.split,
                level=said.level,
                subject=said.subject,
                solution=said.solution,
            )
        self.last = found
        return found

    def _known(self, said: Foreign) -> Problem | None:
        """The problem of the problems named beside the traces, by id or by prompt."""
        if not self.walk.known:
            return None
        if said.problem_id is not None:
            if said.problem_id not in self.walk.known:
                raise BadRowError(f"problem_id {shown(said.problem_id)}: not among the problems given")
            return self.walk.known[said.problem_id]
        return None if said.prompt is None else self.walk.by_prompt.get(squeezed(said.prompt))

    def _id(self, name: str) -> str:
        return f"{self.config.source}/{name}"

    def _line(self, problem: Problem, said: Foreign) -> Line:
        new = problem.id not in self.contents
        if new:
            self.contents[problem.id] = _content(problem.prompt, problem.answer, problem.tests)
        teacher = SamplerId(name=str(said.teacher), revision=self.walk.revision)
        index = self.counts.get((problem.id, teacher.name), 0)
        self.counts[problem.id, teacher.name] = index + 1
        id = trace_id(
            problem.id,
            (Message(role="user", content=problem.prompt),),
            sampler=teacher,
            template="",
            params=said.params,
            seed=0,
            sample_index=index,
        )
        trace = to_trace(
            said.completion,
            think_open=said.think_open,
            id=id,
            problem_id=problem.id,
            sampler=teacher,
            params=said.params,
            sample_index=index,
        )
        return Line(problem, new, trace, said.label, said)


def _content(prompt: str | None, answer: str | None, tests: Tests | None) -> str:
    """What a problem asks and is judged by."""
    return fingerprint([prompt, answer, *([tests] if tests else [])])


def teachers_of(counts: Mapping[str, int]) -> str:
    """`name 12, other 3`"""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
