"""Subjects: accuracy by subject, for benchmarks whose problems name theirs (MATH).

The bench writes no scores by subject; these are made here from its items in the bench's own way: one value a
problem, the mean of its samples, and the same interval over problems.
"""

from collections import defaultdict
from collections.abc import Mapping

from distill.intervals import Interval, mean_interval
from evals.report.charts import Bar, forest
from evals.report.collect import Bench
from evals.report.drawing import legend, percent
from evals.report.markup import figure, more, table


def by_subject(bench: Bench) -> dict[str, dict[str, Interval]]:
    """Per subject and checkpoint. Problems without a subject, or whose gold is bad, count nowhere."""
    found: dict[str, dict[str, Interval]] = {subject: {} for subject in sorted(set(bench.subjects.values()))}
    bad = {item.problem_id for rows in bench.items.values() for item in rows if item.status == "gold_bad"}
    for name in bench.checkpoints:
        right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        for item in bench.items.get(name, ()):
            subject = bench.subjects.get(item.problem_id)
            if subject is not None and item.problem_id not in bad:
                right[subject][item.problem_id].append(item.status == "correct")
        for subject, problems in right.items():
            values = [sum(samples) / len(samples) for samples in problems.values()]
            found[subject][name] = mean_interval(values)
    return {subject: row for subject, row in found.items() if row}


def subjects(bench: Bench) -> str:
    """The section; empty where problems name fewer than two."""
    found = by_subject(bench)
    if len(found) < 2:
        return ""
    names = bench.checkpoints
    bars = [
        Bar(
            subject if len(row) == 1 else f"{subject} · {name}",
            at.value,
            at.low,
            at.high,
            f"{at.value:.1%} [{at.low:.1%}, {at.high:.1%}]",
            names.index(name),
        )
        for subject, row in found.items()
        for name, at in row.items()
    ]
    listing = table(("subject", *(f"{name} (n)" for name in names)), _cells(found, names))
    if len(names) > 3:
        return listing
    chart = forest(bars, label="Accuracy by subject", low=0.0, high=1.0, show=percent)
    key = legend(list(enumerate(names))) if len(names) > 1 else ""
    return key + figure(chart, "pass@1 by subject with 95% intervals over problems.") + more("All figures", listing)


def _cells(found: Mapping[str, Mapping[str, Interval]], names: list[str]) -> list[tuple[str, ...]]:
    return [
        (subject, *(f"{row[name].value:.1%} ({row[name].n:,})" if name in row else "" for name in names))
        for subject, row in found.items()
    ]
