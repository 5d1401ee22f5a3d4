"""Import: foreign traces become an ordinary run folder, judged where a gold answer exists.

Two walks over the rows. The first judges nothing: it writes the problems and the labels the
publisher gave, lists every row that is no trace, and stops there when the table refuses
them. The second stores each trace and its verdict, through the ledger and the judge of
harvest, so that a kill at any instant loses nothing that was acknowledged and doubles
nothing. Every source keeps its licence, its teacher and the terms of that teacher.

Does not choose: doubles within a set get the next sample index, and curate drops them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from pydantic import Field

from distill.content import file_fingerprint
from distill.curate.terms import SOURCES, Source, suggested
from distill.errors import UserError
from distill.harvest.draw import TRACES, VERDICTS, Judge, judged, report_cut
from distill.imports.config import ImportConfig
from distill.imports.reading import count_rows, find_files, local_dataset
from distill.imports.walk import Line, Walk, teachers_of
from distill.jsonl import iter_jsonl, writing_jsonl
from distill.ledger import Ledger, read_ledger
from distill.progress import Progress
from distill.records import Problem, Record, Status, Trace, Verdict, fingerprint
from distill.runs import Report, write_durably
from distill.sampling.replay import LABELS, Label

PROBLEMS, BAD_ROWS, SURVEY = "problems.jsonl", "bad_rows.jsonl", "survey.json"
BAD_SHOWN = 20
"""Bad rows spelled out in an error or a report; all of them stand in the file."""


class BadRow(Record):
    """A row that is no trace."""

    where: str
    """`file:line`."""
    why: str


class Survey(Record):
    """What the first walk found."""

    rows: int
    traces: int
    problems: int
    golds: int
    """Problems with a gold answer or tests."""
    labels: int
    bad: int
    halved: int
    """Rows with half characters (lone surrogates), now U+FFFD."""
    systems: int
    """Traces that came with a system prompt, which is left out."""
    thoughts: int
    """Traces with a whole thought."""
    marks: dict[str, int] = Field(default_factory=dict)
    """Traces by the mark their thought came with."""
    teachers: dict[str, int] = Field(default_factory=dict)


def import_files(config: ImportConfig, data: Path) -> Sequence[Path]:
    """What the result depends on, for fingerprints; of a hub id its revision in the table speaks."""
    if config.dataset is None:
        return find_files(config, data)
    folder = local_dataset(config)
    return () if folder is None else (folder,)


def open_walk(config: ImportConfig, data: Path, problems: Path | None) -> Walk:
    """The walk a table means, its layout recognized."""
    files = import_files(config, data)
    content = [file_fingerprint(path) for path in files] or [str(config.dataset), str(config.dataset_revision)]
    return Walk(config, files if config.dataset is None else (), problems, fingerprint(content))


def import_traces(
    out: Path, config: ImportConfig, *, data: Path, problems: Path | None, judge: Judge, progress: Progress
) -> Report:
    """Write problems, traces, verdicts, labels and bad rows into `out`; what is stored there already is kept.

    `problems` is where the config's problems stand. Raises UserError naming every bad row as
    file:line (the first of them, and how many more) unless the config skips them.
    """
    walk = open_walk(config, data, problems)
    survey = _survey(walk, out, progress)
    if survey.bad and config.bad_rows == "refuse":
        raise UserError(_refusal(out, survey))
    if not survey.traces:
        raise UserError(f"import: none of {survey.rows:,} rows is a trace; {_bad_lines(out, survey)}")
    judge.prepare(iter_jsonl(out / PROBLEMS, Problem))
    _store(walk, out, judge, survey, progress)
    return _report(walk, out, survey)


def survey_of(lines: Sequence[Line], rows: int, bad: int, halved: int) -> Survey:
    """Counts of some lines, for a preview."""
    tally = _Tally()
    for line in lines:
        tally.add(line)
    return tally.survey(rows, bad, halved)


class _Tally:
    """Counts kept while walking."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.marks: Counter[str] = Counter()
        self.teachers: Counter[str] = Counter()

    def add(self, line: Line) -> None:
        self.counts["traces"] += 1
        self.counts["problems"] += line.new
        self.counts["golds"] += line.new and line.problem.kind != "open"
        self.counts["labels"] += line.label is not None
        self.counts["systems"] += line.foreign.system
        self.counts["thoughts"] += line.trace.reasoning is not None
        self.marks[line.foreign.mark or "none"] += 1
        self.teachers[line.trace.sampler.name] += 1

    def survey(self, rows: int, bad: int, halved: int) -> Survey:
        names = ("traces", "problems", "golds", "labels", "systems", "thoughts")
        counts = {name: self.counts[name] for name in names}
        return Survey(rows=rows, bad=bad, halved=halved, marks=dict(self.marks), teachers=dict(self.teachers), **counts)


def _survey(walk: Walk, out: Path, progress: Progress) -> Survey:
    """The first walk, or what it found when it was whole before a kill."""
    done = out / SURVEY
    if done.is_file():
        return Survey.model_validate_json(done.read_bytes())
    tally, rows, bad, halved = _Tally(), 0, 0, 0
    total = count_rows(walk.config, walk.files)
    with (
        progress.task("import: reading", total=total, unit="rows") as task,
        writing_jsonl(out / PROBLEMS) as problem,
        writing_jsonl(out / LABELS) as label,
        writing_jsonl(out / BAD_ROWS) as bad_row,
    ):
        for taken in walk:
            rows, bad, halved = rows + 1, bad + bool(taken.why), halved + taken.raw.halved
            if taken.why:
                bad_row(BadRow(where=taken.raw.where, why=taken.why))
            for line in taken.lines:
                tally.add(line)
                if line.new:
                    problem(line.problem)
                if line.label is not None:
                    label(Label(trace_id=line.trace.id, label=line.label, source=walk.config.source))
            task.advance(facts=f"{bad:,} bad" if bad else "")
    survey = tally.survey(rows, bad, halved)
    for count, name in ((survey.labels, LABELS), (survey.bad, BAD_ROWS)):
        if not count:
            (out / name).unlink()
    write_durably(done, survey.to_json())
    return survey


def _store(walk: Walk, out: Path, judge: Judge, survey: Survey, progress: Progress) -> None:
    """The second walk: what the ledgers hold is the beginning of it."""
    with Ledger(out / TRACES) as traces, Ledger(out / VERDICTS, after=traces) as verdicts:
        report_cut(progress, traces, verdicts)
        stored = sum(1 for _ in read_ledger(out / TRACES, Trace))
        known = sum(1 for _ in read_ledger(out / VERDICTS, Verdict))
        lines = walk.lines()

        def old() -> Iterator[tuple[Problem, Trace]]:
            """Stored traces without a verdict."""
            for index, trace in enumerate(islice(read_ledger(out / TRACES, Trace), stored)):
                line = next(lines)
                assert trace.id == line.trace.id, "the ledger must be the beginning of the walk"
                if index >= known:
                    yield line.problem, trace

        def new() -> Iterator[tuple[Problem, Trace]]:
            for line in lines:
                yield line.problem, traces.append(line.trace)

        with progress.task("import: judging", total=survey.traces - known, unit="traces") as task:
            for _ in judged(judge, old(), new(), verdicts, task):
                pass


def _report(walk: Walk, out: Path, survey: Survey) -> Report:
    config = walk.config
    statuses, agreed = _verdicts(out, survey)
    sources = [_source(config, name, count) for name, count in sorted(survey.teachers.items())]
    lines = [
        *describe(walk, survey),
        "  ".join(f"{status} {statuses[status]:,}" for status in get_args(Status) if statuses[status]),
    ]
    if survey.labels:
        lines.append(
            f"labels of the publisher: {survey.labels:,}, the judge agrees with {agreed:,} "
            f"({agreed / survey.labels:.2%}); a bench over this folder lists the others"
        )
    if survey.bad:
        lines.append(_bad_lines(out, survey))
    lines += [source_line(source) for source in sources]
    return Report(
        counts={
            "rows": survey.rows,
            "traces": survey.traces,
            "problems": survey.problems,
            "bad_rows": survey.bad,
            "labels": survey.labels,
            "labels_agreed": agreed,
            **statuses,
        },
        lines=tuple(lines),
        marks={
            SOURCES: [source.model_dump(exclude_none=True) for source in sources],
            "layout": walk.layout.name,
            "columns": {field: list(names) for field, names in walk.layout.columns.items()},
            "teacher_revision": walk.revision,
        },
    )


def describe(walk: Walk, survey: Survey) -> list[str]:
    """What was read, and how: for the report and the preview."""
    columns = "  ".join(f"{field} <- {'|'.join(names)}" for field, names in walk.layout.columns.items())
    marks = ", ".join(f"{mark} {count:,}" for mark, count in sorted(survey.marks.items()))
    lines = [
        f"{survey.rows:,} rows, {survey.traces:,} traces of {survey.problems:,} problems, {survey.golds:,} with a gold",
        f"layout {walk.layout.name}: {columns}",
        f"thoughts: {survey.thoughts:,} whole; marks: {marks or 'no trace'}",
        f"teachers: {teachers_of(survey.teachers) or 'none'}",
    ]
    if survey.systems:
        lines.append(f"{survey.systems:,} system prompts left out")
    if survey.halved:
        lines.append(f"{survey.halved:,} rows held half characters, now U+FFFD")
    return lines


def source_line(source: Source) -> str:
    """One source with its terms, for the screen."""
    return f"source {source.name}, licence {source.licence}, teacher {source.teacher}: {source.terms} ({source.basis})"


def sources(walk: Walk, survey: Survey) -> list[Source]:
    """The sources an import would have, one for each teacher."""
    return [_source(walk.config, name, count) for name, count in sorted(survey.teachers.items())]


def _source(config: ImportConfig, teacher: str, traces: int) -> Source:
    terms, basis = suggested(teacher)
    if config.terms is not None:
        terms, basis = config.terms, "given"
    return Source(
        name=config.source,
        licence=config.licence,
        terms=terms,
        url=config.url,
        teacher=teacher,
        basis=basis,
        traces=traces,
    )


def _verdicts(out: Path, survey: Survey) -> tuple[Counter[str], int]:
    """Verdicts by status, and how many labels agree with theirs. Both files are in the order of the walk."""
    statuses: Counter[str] = Counter()
    labels: Iterator[Any] = iter_jsonl(out / LABELS, Label) if survey.labels else iter(())
    label, agreed = next(labels, None), 0
    for verdict in read_ledger(out / VERDICTS, Verdict):
        statuses[verdict.status] += 1
        if label is not None and label.trace_id == verdict.trace_id:
            agreed += label.label == (verdict.status == "correct")
            label = next(labels, None)
    return statuses, agreed


def _bad_lines(out: Path, survey: Survey) -> str:
    rows = islice(iter_jsonl(out / BAD_ROWS, BadRow), BAD_SHOWN) if survey.bad else iter(())
    shown = [f"{row.where}: {row.why}" for row in rows]
    if survey.bad > BAD_SHOWN:
        shown.append(f"... and {survey.bad - BAD_SHOWN:,} more, all in {BAD_ROWS}")
    return "\n".join([f"{survey.bad:,} rows are no trace:", *shown])


def _refusal(out: Path, survey: Survey) -> str:
    return (
        f"{_bad_lines(out, survey)}\nimport: {survey.bad:,} of {survey.rows:,} rows refused (all in {out / BAD_ROWS}), "
        f'nothing was judged; mend them, or bad_rows = "skip" takes the other {survey.rows - survey.bad:,}'
    )
