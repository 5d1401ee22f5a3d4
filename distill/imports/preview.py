"""Preview: how an import would read a set, before anything is written.

Shows the layout with its evidence, the counts of the first rows, what is wrong with the bad
ones, the terms of every teacher, and a few traces with prompt, thought, answer and gold in
colors of their own. Judges nothing.
"""

from collections.abc import Iterator
from itertools import islice

from rich.text import Text

from distill.imports.stage import describe, source_line, sources, survey_of
from distill.imports.walk import Line, Walk

EXAMINED = 1_000
"""Rows a preview reads."""
LONGEST = 400
"""Characters shown of a prompt, thought or answer."""
SLACK = 50
"""Characters more that are shown rather than left out."""
BAD_SHOWN = 10


def preview(walk: Walk, shown: int) -> Iterator[Text]:
    """Lines for the screen, `shown` traces among them."""
    taken = list(islice(walk, EXAMINED))
    lines = [line for one in taken for line in one.lines]
    bad = [one for one in taken if one.why]
    survey = survey_of(lines, len(taken), len(bad), sum(one.raw.halved for one in taken))
    more = ", the first of the set" if len(taken) == EXAMINED else ""
    yield Text(f"preview of {len(taken):,} rows{more}; nothing is written", style="bold")
    for number, text in enumerate(describe(walk, survey)):
        yield Text(text)
        if number == 1:
            yield from (Text(f"  because: {evidence}") for evidence in walk.layout.evidence)
    yield Text(f"labels of the publisher: {survey.labels:,}")
    yield from (Text(source_line(source)) for source in sources(walk, survey))
    if bad:
        yield Text(f"{len(bad):,} bad rows:", style="red")
        yield from (Text(f"  {one.raw.where}: {one.why}", style="red") for one in bad[:BAD_SHOWN])
        if len(bad) > BAD_SHOWN:
            yield Text(f"  ... and {len(bad) - BAD_SHOWN:,} more", style="red")
    for line in lines[:shown]:
        yield from _shown(line)


def _shown(line: Line) -> Iterator[Text]:
    trace, problem = line.trace, line.problem
    label = "" if line.label is None else f", the publisher says {'right' if line.label else 'wrong'}"
    yield Text()
    yield Text(f"{problem.id}  sample {trace.sample_index}  {trace.sampler.name}  {trace.finish}{label}", style="bold")
    yield from _part("prompt", problem.prompt, "cyan")
    if trace.reasoning is not None:
        yield from _part("thought", trace.reasoning, "dim")
    if trace.answer is None:
        yield from _part("no answer: its thought never ends", trace.text, "red")
    else:
        yield from _part("answer", trace.answer, "green")
    gold = f"{len(problem.tests.check)} runs of its program" if problem.tests else f"none, kind {problem.kind}"
    yield from _part("gold", problem.answer if problem.answer is not None else gold, "yellow")


def _part(name: str, text: str, style: str) -> Iterator[Text]:
    """A named text, its middle left out where it is long."""
    if len(text) > LONGEST + SLACK:
        half = LONGEST // 2
        text = f"{text[:half]} [... {len(text) - LONGEST:,} characters ...] {text[-half:]}"
    clean = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
    yield Text.assemble((f"  {name:<8} ", "bold"), (clean.replace("\n", "\n           "), style))
