"""Composition: what students learned from - where rows came from, what each filter kept, what was held away.

Families and levels are those of the problems; the lengths curate's card draws are not drawn again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from distill.jsonl import iter_jsonl
from distill.records import Example
from distill.runs import Manifest
from distill.selection import iter_problems, problems_file
from evals.report.charts import stacks
from evals.report.drawing import text
from evals.report.markup import figure, more, table

EXAMPLES = "examples.jsonl"
OTHER = "no problem named"


@dataclass(frozen=True, slots=True)
class Composed:
    """One set of examples, counted."""

    name: str
    manifest: Manifest
    rows: Mapping[tuple[str, int | None], int]
    """By family and level."""


def composed(name: str, folder: Path, manifest: Manifest, problems: Path | None) -> Composed:
    """Count a curate folder; families are unknown where its problems are gone."""
    known: dict[str, tuple[str, int | None]] = {}
    if problems is not None and problems_file(problems).is_file():
        known = {problem.id: (problem.source, problem.level) for problem in iter_problems(problems)}
    rows: Counter[tuple[str, int | None]] = Counter()
    if (folder / EXAMPLES).is_file():
        rows.update(known.get(row.problem_id, (OTHER, None)) for row in iter_jsonl(folder / EXAMPLES, Example))
    return Composed(name, manifest, rows)


def composition(found: tuple[Composed, ...]) -> str:
    """The section; empty where nothing was curated."""
    if not found:
        return ""
    totals = [(one.name, _by_family(one)) for one in found if one.rows]
    families = list(dict.fromkeys(family for _, counts in totals for family in sorted(counts)))
    made = ""
    if totals:
        kinds = {family: f"f{place % 8}" for place, family in enumerate(families)}
        bars = [(name, {kinds[family]: count for family, count in counts.items()}) for name, counts in totals]
        key = "".join(f'<li><i class="k-{kind}"></i>{text(family)}</li>' for family, kind in kinds.items())
        chart = stacks(bars, list(kinds.values()), label="Examples by family")
        made = f'<ul class="legend">{key}</ul>' + figure(chart, "Examples by family; the figure is how many there are.")
        made += more(
            "Families and levels", table(("set", "family", "level", "examples", "share"), list(_listing(found)))
        )
    counts = {one.name: one.manifest.report.counts for one in found}
    keys = list(dict.fromkeys(key for row in counts.values() for key in row))
    rows = [(name, *(f"{row[key]:,}" if key in row else "" for key in keys)) for name, row in counts.items()]
    marks = {one.name: one.manifest.report.marks.get("decontaminated") for one in found}
    notes = "".join(f"<li>{text(f'{name}: {_decontamination(mark)}')}</li>" for name, mark in marks.items())
    return f'{made}{table(("step", *keys), rows)}<h3>Decontamination</h3><ul class="notes">{notes}</ul>'


def _by_family(one: Composed) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (family, _), count in one.rows.items():
        counts[family] += count
    return counts


def _listing(found: tuple[Composed, ...]) -> Iterator[tuple[str, ...]]:
    for one in found:
        total = sum(one.rows.values())
        for (family, level), count in sorted(one.rows.items(), key=lambda row: (row[0][0], row[0][1] or 0)):
            yield one.name, family, "" if level is None else str(level), f"{count:,}", f"{count / total:.1%}"


def _decontamination(mark: object) -> str:
    if not isinstance(mark, dict):
        return "no mark in the manifest" if mark is None else str(mark)
    against = mark.get("against")
    places = (
        ", ".join(f"{name} ({count:,})" for name, count in against.items()) if isinstance(against, dict) else against
    )
    return f"{mark.get('method')} against {places}; removed {mark.get('removed')}"
