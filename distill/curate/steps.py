"""Steps: what curate does to the whole set at once, on light rows.

Each step drops rows by writing into the history. Rows come in the order of problems, rounds
and samples, so the first of several equal ones is the same whatever the ledgers' order; but
what was judged correct comes before what was not, lest a policy drop both.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from distill.curate.config import CurateConfig
from distill.curate.content.finding import Finding
from distill.curate.filters import Clean
from distill.curate.history import History
from distill.curate.near import NearConfig, near_duplicates
from distill.curate.reading import Reading
from distill.curate.row import Row
from distill.curate.writing import Texts
from distill.progress import Progress

NEAR_PROMPTS, NEAR_SOLUTIONS = "near-prompts", "near-solutions"
ALONE = 20_000
"""Texts up to which near duplicates are looked for in this process: starting others takes longer."""


def repeats(config: CurateConfig) -> list[str]:
    """Names of the steps that look for repeats, in order."""
    near = {NEAR_PROMPTS: config.near_prompts, NEAR_SOLUTIONS: config.near_solutions}
    return ["distinct", *(name for name, asked in near.items() if asked != "off")]


def thin(
    reading: Reading,
    history: History,
    clean: Clean,
    texts: Texts,
    config: CurateConfig,
    *,
    scratch: Path,
    workers: int,
    progress: Progress,
) -> None:
    """Drop what filters and steps over the whole set object to, in the order of steps."""
    rows = reading.rows
    history.drops.update(reading.early)
    _distinct(_correct_first(history.alive(rows)), history)
    for name, near in ((NEAR_PROMPTS, config.near_prompts), (NEAR_SOLUTIONS, config.near_solutions)):
        if near != "off":
            _near(name, _correct_first(history.alive(rows)), near, history, texts, scratch, workers, progress)
    for row in history.alive(rows):
        if row.trace_id in clean.flagged:
            history.flag(row, clean.name, clean.flagged[row.trace_id])
        if row.trace_id in reading.late:
            history.drops[row.trace_id] = reading.late[row.trace_id]
    if config.max_per_problem is not None:
        _at_most(history.alive(rows), config.max_per_problem, history)


def _correct_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.status != "correct")


def _distinct(rows: Sequence[Row], history: History) -> None:
    """One example a prompt and text, white space aside, whatever their problems and sources; the first stays."""
    first: dict[int, str] = {}
    for row in rows:
        same = first.setdefault(row.digest, row.trace_id)
        if same != row.trace_id:
            history.drop(row, "distinct", Finding("duplicate", same, None, f"says the same as {same}"))


def _near(
    step: str,
    rows: Sequence[Row],
    near: NearConfig,
    history: History,
    texts: Texts,
    scratch: Path,
    workers: int,
    progress: Progress,
) -> None:
    """Prompts: every trace of a problem that repeats an earlier one. Solutions: within their problem."""
    if step == NEAR_PROMPTS:
        numbers = list(dict.fromkeys(row.problem for row in rows))
        said, groups = (texts.questions[number].prompt for number in numbers), None
        names = [texts.questions.ids[number] for number in numbers]
    else:
        said, groups = (texts.said(row) for row in rows), (str(row.problem) for row in rows)
        names = [row.trace_id for row in rows]
    used = workers if len(names) > ALONE else 1
    found = near_duplicates(said, near, workers=used, progress=progress, groups=groups, scratch=scratch)
    earlier = {name: names[first] for name, first in zip(names, found.tolist(), strict=True) if names[first] != name}
    for row in rows:
        same = earlier.get(texts.questions.ids[row.problem] if step == NEAR_PROMPTS else row.trace_id)
        if same is not None:
            reason = "near-prompt" if step == NEAR_PROMPTS else "near-solution"
            history.drop(row, step, Finding(reason, same, near.threshold, f"says again what {same} says"))


def _at_most(rows: Sequence[Row], limit: int, history: History) -> None:
    """The first `limit` examples of a problem."""
    taken: Counter[int] = Counter()
    for row in rows:
        taken[row.problem] += 1
        if taken[row.problem] > limit:
            finding = Finding("over-quota", taken[row.problem], limit, f"its problem has {limit} already")
            history.drop(row, "at-most", finding)
