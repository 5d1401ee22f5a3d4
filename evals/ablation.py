"""Ablation: which policy teaches best, at which size, told from finished cells.

Reads the items of each cell's bench, the examples it learned from and the manifest of its
student; writes ablation.json, ablation.csv and ablation.md. Trains and samples nothing. What
the figures mean stands in `evals.efficiency`.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from distill.errors import UserError
from distill.harvest.draw import VERDICTS
from distill.jsonl import read_jsonl
from distill.ledger import read_ledger
from distill.recipe import StageConfig
from distill.records import Example, Item, Record, Verdict
from distill.runs import Report, read_manifest, write_durably
from distill.train.rows import EXAMPLES
from evals.bench import ITEMS
from evals.efficiency import Answers, Compared, Place, Price, compare, prices
from evals.scoring import aligned, bad_gold

JSON, CSV, MARKDOWN = "ablation.json", "ablation.csv", "ablation.md"


class AblateConfig(StageConfig):
    """What was compared. `benches`, `students` and `data` have one entry a cell."""

    inputs: ClassVar[tuple[str, ...]] = ("benches", "students", "data", "harvests")
    benches: tuple[str, ...]
    students: tuple[str, ...]
    data: tuple[str, ...]
    harvests: tuple[str, ...]
    """Whose verdicts say which examples are right."""
    cells: tuple[Place, ...]
    baseline: str
    """Policy the others are compared with."""
    chains: dict[str, str]
    """By policy: its tables, as JSON."""
    target: float | None = None
    """Score whose price in examples is asked; None asks for the baseline's at its largest size."""


class Ablation(Record):
    """All that is told, as ablation.json holds it."""

    baseline: str
    policies: dict[str, str]
    steps: tuple[int, ...]
    """Optimizer steps of the students; more than one number where they differ."""
    cells: tuple[Compared, ...]
    prices: tuple[Price, ...]
    notes: tuple[str, ...]


def ablate(
    benches: Sequence[Path],
    students: Sequence[Path],
    data: Sequence[Path],
    harvests: Sequence[Path],
    out: Path,
    config: AblateConfig,
) -> Report:
    """Write the three files into `out`. Raises UserError when the cells were not asked the same problems."""
    right = {
        verdict.trace_id
        for folder in harvests
        for verdict in read_ledger(folder / VERDICTS, Verdict)
        if verdict.status == "correct"
    }
    items = [read_jsonl(bench / ITEMS, Item) for bench in benches]
    bad = bad_gold(item for rows in items for item in rows)
    answers = {
        place: _answers([item for item in rows if item.problem_id not in bad], student, examples, right)
        for place, rows, student, examples in zip(config.cells, items, students, data, strict=True)
    }
    if len({tuple(sorted(found.solved)) for found in answers.values()}) > 1:
        raise UserError("ablate: the cells were asked different problems, so they cannot be compared")
    rows, costs = compare(answers, config.baseline), prices(answers, config.baseline, config.target)
    steps = tuple(sorted({found.steps for found in answers.values()}))
    seeds = sorted({place.seed for place in answers})
    told = Ablation(
        baseline=config.baseline,
        policies=config.chains,
        steps=steps,
        cells=tuple(rows),
        prices=tuple(costs),
        notes=tuple(_notes(seeds, steps, {row.size for row in rows}, rows[0].n)),
    )
    write_durably(out / JSON, json.dumps(told.model_dump(mode="json"), indent=2) + "\n")
    write_durably(out / CSV, _csv(rows))
    write_durably(out / MARKDOWN, _markdown(told))
    tables = [_cells(rows, config.baseline), *([_costs(costs, config.baseline)] if costs else [])]
    lines = tuple(line for table in tables for line in (*aligned(table), ""))
    return Report(
        counts={"cells": len(answers), "problems": rows[0].n, "seeds": len(seeds)}, lines=(*lines, *told.notes)
    )


def _answers(items: Sequence[Item], student: Path, data: Path, right: set[str]) -> Answers:
    tries: dict[str, list[bool]] = {}
    for item in items:
        tries.setdefault(item.problem_id, []).append(item.status == "correct")
    if not tries:
        raise UserError(f"{student.name}: none of its problems can be judged")
    examples = read_jsonl(data / EXAMPLES, Example)
    counts = read_manifest(student).report.counts
    return Answers(
        solved={problem: sum(solved) / len(solved) for problem, solved in tries.items()},
        tokens_per_answer=sum(item.tokens for item in items) / len(items),
        tokens_per_example=float(counts["tokens_per_example"]),
        correct=sum(row.trace_id in right for row in examples) / len(examples),
        problems=len({row.problem_id for row in examples}),
        steps=int(counts["steps"]),
    )


def _notes(seeds: Sequence[int], steps: Sequence[int], sizes: set[int], problems: int) -> Iterable[str]:
    took = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    yield f"Every student took {took} optimizer steps, whatever the size: fewer examples are seen more often."
    yield (
        f"Seeds {', '.join(map(str, seeds))}: a seed draws the examples, the first weights and the order of batches; "
        "the harvest is one. Each size is drawn anew, no size is part of a larger one."
    )
    yield (
        f"Intervals are 95% over the {problems:,} problems, seeds averaged within a problem. They do not cover other "
        "seeds: compare the differences seed by seed."
    )
    if len(sizes) == 1:
        return
    yield (
        "Examples for a score are read off straight lines between sizes (logarithmic), 95% range by resampling "
        "problems; nothing is extrapolated."
    )


def _cells(rows: Sequence[Compared], baseline: str) -> list[tuple[str, ...]]:
    head = ["policy", "examples", "pass@1", "95% interval", "- baseline", "95% interval", "seed by seed"]
    head += ["tokens/example", "correct", "problems", "tokens/answer"]
    table: list[tuple[str, ...]] = [tuple(head)]
    for row in rows:
        table.append(
            (
                row.policy,
                f"{row.size:,}",
                f"{row.value:.1%}",
                f"{row.low:.1%} to {row.high:.1%}",
                *_beside(row, baseline),
                f"{row.tokens_per_example:.1f}",
                f"{row.correct:.0%}",
                f"{row.problems:,.0f}",
                f"{row.tokens_per_answer:.1f}",
            )
        )
    return table


def _beside(row: Compared, baseline: str) -> tuple[str, str, str]:
    """The difference to the baseline in points; the baseline has none, its own scores stand seed by seed."""
    if row.policy == baseline:
        return "-", "-", " ".join(f"{value:.1%}" for value in row.by_seed)
    interval = f"{row.difference_low * 100:+.1f} to {row.difference_high * 100:+.1f}"
    return f"{row.difference * 100:+.1f}", interval, " ".join(f"{value * 100:+.1f}" for value in row.difference_by_seed)


def _costs(costs: Sequence[Price], baseline: str) -> list[tuple[str, ...]]:
    base = next(cost.examples for cost in costs if cost.policy == baseline)
    table: list[tuple[str, ...]] = [
        (f"examples for {costs[0].target:.1%}", "examples", "95% range", f"of what {baseline} needs")
    ]
    for cost in costs:
        share = f"{cost.examples / base:.0%}" if cost.examples is not None and base is not None else "-"
        bounded = cost.examples == cost.smallest and share != "-"
        low, high = _examples(cost.low, cost), _examples(cost.high, cost)
        table.append(
            (cost.policy, _examples(cost.examples, cost), f"{low} to {high}", f"<={share}" if bounded else share)
        )
    return table


def _examples(value: float | None, cost: Price) -> str:
    if value is None:
        return f">{cost.largest:,}"
    return f"<={cost.smallest:,}" if value == cost.smallest else f"{value:,.0f}"


def _csv(rows: Sequence[Compared]) -> str:
    """One line a policy and size; what was measured seed by seed is joined by spaces."""
    text = io.StringIO()
    written = csv.DictWriter(text, list(Compared.model_fields), lineterminator="\n")
    written.writeheader()
    for row in rows:
        cells = row.model_dump(mode="json")
        written.writerow(
            {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in cells.items()}
        )
    return text.getvalue()


def _markdown(told: Ablation) -> str:
    policies: list[tuple[str, ...]] = [
        ("policy", "tables"),
        *((name, f"`{tables}`") for name, tables in told.policies.items()),
    ]
    blocks = [
        _cells(told.cells, told.baseline),
        *([_costs(told.prices, told.baseline)] if told.prices else []),
        policies,
    ]
    made = ["\n".join(_line(row) for row in (rows[0], ("---",) * len(rows[0]), *rows[1:])) for rows in blocks]
    notes = "\n".join(f"- {note}" for note in told.notes)
    return "\n\n".join([f"# Ablation: policies beside `{told.baseline}`", *made, notes]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
