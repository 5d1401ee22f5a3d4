"""Show: one trace as a person reads it: problem, thought, answer, and every verdict it was ever given.

What a model wrote may hold terminal control characters; they are shown, never sent. Colors are
the terminal's affair: the same lines are plain text in a file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from distill.errors import UserError
from distill.harvest import VERDICTS
from distill.jsonl import iter_jsonl
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.records import Problem, Record, Trace, Verdict
from distill.traces.asked import problems_of
from distill.traces.index import Found, Index, open_index

COLORS = {"correct": "green", "wrong": "red"}
"""All other verdicts are yellow: they are not about being right."""
LISTED = 50
"""Traces in a list before the rest is only counted."""


class Shown(Record):
    """One trace with all that is known of it."""

    folder: str
    trace: Trace
    verdict: Verdict | None = None
    earlier: tuple[Verdict, ...] = ()
    """Verdicts of judges before, oldest first."""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Several:
    """A name that several traces answer to."""

    folder: Path
    name: str
    found: Sequence[Found]


def look_up(name: str, folders: Sequence[Path], problems: Path | None, progress: Progress) -> Shown | Several:
    """The trace of an id or of its beginning, or the list when there are several, or when `name` is a problem's id.

    Raises UserError when no folder has it.
    """
    for folder in folders:
        with open_index(folder, progress) as index:
            found = index.find(name)
            if len(found) == 1:
                return _shown(index, found[0], problems)
            if found:
                return Several(folder, name, found)
    where = ", ".join(map(str, folders[:5])) + (f" and {len(folders) - 5} more" if len(folders) > 5 else "")
    raise UserError(f"{name}: no trace and no problem of that id in {where or 'any run folder'}; see distill traces ls")


def _shown(index: Index, found: Found, problems: Path | None) -> Shown:
    trace, verdict = index.read(found)
    file = problems_of(index.folder, problems)
    asked = None
    if file is not None:
        asked = next((row for row in iter_jsonl(file, Problem) if row.id == trace.problem_id), None)
    return Shown(
        folder=str(index.folder),
        trace=trace,
        verdict=verdict,
        earlier=tuple(_earlier(index.folder, trace.id)),
        problem=asked,
    )


def older_ledgers(folder: Path) -> list[Path]:
    """Ledgers of the verdicts that newer judges have replaced, oldest first."""
    found = [path for path in folder.glob(f"{VERDICTS}-*") if path.name.removeprefix(f"{VERDICTS}-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(f"{VERDICTS}-")))


def _earlier(folder: Path, trace_id: str) -> Iterator[Verdict]:
    for ledger in older_ledgers(folder):
        yield from (verdict for verdict in read_ledger(ledger, Verdict) if verdict.trace_id == trace_id)


def in_lines(several: Several) -> Iterator[Text]:
    """The list of several traces."""
    yield Text(f"{len(several.found):,} traces of {several.name} in {several.folder}")
    for found in several.found[:LISTED]:
        line = Text(f"  {found.id}  ", style="")
        line.append(f"{found.status or 'unjudged':<10}", style=_color(found.status))
        line.append(
            f"  {found.tokens:>7,} tokens  round {found.round} sample {found.sample_index}  {plain(found.sampler)}"
        )
        yield line
    if len(several.found) > LISTED:
        yield Text(f"  ... and {len(several.found) - LISTED:,} more")


def in_full(shown: Shown) -> Iterator[Text]:
    """A trace, part by part."""
    trace, problem = shown.trace, shown.problem
    yield Text(f"trace {trace.id} of problem {plain(trace.problem_id)}", style="bold")
    yield Text(
        f"{shown.folder}; {plain(trace.sampler.name)} {plain(trace.sampler.revision)}; round {trace.round}, sample "
        f"{trace.sample_index}; {trace.prompt_tokens:,} + {trace.completion_tokens:,} tokens; {trace.finish}"
        + (f"; continues or corrects {trace.parent}" if trace.parent else "")
    )
    if trace.params is not None:
        yield Text(f"asked with {trace.params.to_json()}", style="dim")
    if problem is not None:
        level = "" if problem.level is None else f", level {problem.level}"
        yield from _part(f"problem ({plain(problem.source)}{level})", problem.prompt, "")
        if problem.answer is not None:
            yield from _part("gold", problem.answer, "green")
    if trace.answer is None:
        yield from _part("text (the thought never ends)", trace.text, "cyan")
    else:
        yield from _part("thought", trace.reasoning or "", "cyan")
        yield from _part("answer", trace.answer, "bold")
    for verdict in (*shown.earlier, *(() if shown.verdict is None else (shown.verdict,))):
        yield from _verdict(verdict, replaced=verdict is not shown.verdict)
    if shown.verdict is None:
        yield Text("no verdict yet", style="yellow")


def _part(name: str, text: str, style: str) -> Iterator[Text]:
    yield Text(f"--- {name}", style="dim")
    yield Text(plain(text.strip("\n")), style=style)


def _verdict(verdict: Verdict, *, replaced: bool) -> Iterator[Text]:
    yield Text(f"--- verdict of judge {plain(verdict.judge_version)}{', replaced' if replaced else ''}", style="dim")
    line = Text(verdict.status, style="dim" if replaced else f"bold {_color(verdict.status)}")
    if verdict.extracted is not None or verdict.expected is not None:
        line.append(f"  found {plain(verdict.extracted or 'nothing')!r}, expected {plain(verdict.expected or '')!r}")
    if verdict.why:
        line.append(f"  {plain(verdict.why)}")
    yield line


def _color(status: str | None) -> str:
    return COLORS.get(status or "", "yellow")


def plain(text: str) -> str:
    """Every control character but line ends and tabs as its picture, direction marks as U+FFFD."""
    return "".join(map(_picture, text)) if not text.isprintable() else text


def _picture(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    code = ord(character)
    return chr(0x2400 + code) if code < 32 else "�"
