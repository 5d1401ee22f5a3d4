"""Scores: the sections about how good the checkpoints are, and how sure that is."""

from collections.abc import Mapping, Sequence

from distill.records import Score
from evals.report.charts import Bar, Mark, Series, forest, plot
from evals.report.collect import Bench
from evals.report.drawing import chance, compact, legend, percent, points, signed, text
from evals.report.markup import figure, more, table
from evals.scoring import ALL, PASS_1, task_order

DISAGREEMENTS_SHOWN = 100


def headline(bench: Bench) -> str:
    """One row a checkpoint: the score over everything with its interval."""
    rows = [row for row in bench.scores if row.task == ALL and row.metric == PASS_1]
    bars = [
        Bar(row.checkpoint, row.value, row.low, row.high, f"{row.value:.1%} [{row.low:.1%}, {row.high:.1%}]", i)
        for i, row in enumerate(rows)
    ]
    chart = forest(bars, label="Accuracy of each checkpoint", low=0.0, high=1.0, show=percent)
    others = [row for row in bench.scores if row.task == ALL and row.metric != PASS_1]
    return (
        figure(chart, f"pass@1 over {_problems(rows)} with 95% intervals over problems. {_protocols(rows)}")
        + table(
            (
                "checkpoint",
                "role",
                "metric",
                "value",
                "95% interval",
                "problems",
                "truncated",
                "no answer",
                "tokens/answer",
                "parameters",
                "weights",
            ),
            [_score_cells(row, bench) for row in [*rows, *others]],
        )
        + _notes(bench)
    )


def differences(bench: Bench) -> str:
    """Pairs named in the recipe, problem by problem."""
    rows = [row for row in bench.paired if row.task == ALL]
    if not rows:
        return ""
    reach = max(0.02, *(max(abs(row.low), abs(row.high)) for row in rows)) * 1.06
    names = bench.checkpoints
    bars = [
        Bar(
            f"{row.a} − {row.b}",
            row.difference,
            row.low,
            row.high,
            f"{signed(row.difference)} [{signed(row.low)}, {signed(row.high)}]",
            names.index(row.a),
        )
        for row in rows
    ]
    chart = forest(bars, label="Paired differences in points", low=-reach, high=reach, show=points, zero=0.0)
    caption = (
        "Difference in points on the same problems, 95% interval. An interval that crosses the line settles nothing."
    )
    cells = [
        (
            f"{row.a} − {row.b}",
            row.task,
            signed(row.difference),
            f"{signed(row.low)} to {signed(row.high)}",
            f"{row.n:,}",
            chance(row.p_mcnemar),
        )
        for row in bench.paired
    ]
    listing = table(("pair", "task", "points", "95% interval", "problems", "p (McNemar)"), cells)
    return figure(chart, caption) + more("Every family and level", listing)


def levels(bench: Bench) -> str:
    """Accuracy against level, a panel for each family."""
    found = {(row.checkpoint, row.task): row for row in bench.scores if row.metric == PASS_1}
    tasks = sorted({task for _, task in found}, key=task_order)
    families = [task for task in tasks if task_order(task)[0] == 1]
    names = bench.checkpoints
    panels = []
    for family in families:
        own = [task for task in tasks if task.startswith(f"{family}/level-")]
        if len(own) > 1:
            panels.append(f"<div><h3>{text(family)}</h3>{_panel(family, own, names, found)}</div>")
    if len(tasks) == 2:
        return ""  # one family without levels: the headline has said it
    cells = [(name, *(_cell(found.get((name, task))) for task in tasks)) for name in names]
    listing = table(("checkpoint", *tasks), cells, scroll=True)
    key = legend(list(enumerate(names))) if panels else ""
    charts = f'<div class="pair">{"".join(panels)}</div>' if panels else ""
    return key + charts + (more("All figures", listing) if panels else listing)


def _panel(family: str, tasks: Sequence[str], names: Sequence[str], found: Mapping[tuple[str, str], Score]) -> str:
    series = []
    for index, name in enumerate(names):
        rows = [found[name, task] for task in tasks if (name, task) in found]
        marks = [
            Mark(task_order(row.task)[2], row.value, row.low, row.high, f"{name}, {row.task}: {_cell(row)}, n {row.n}")
            for row in rows
        ]
        series.append(Series(name, index, marks))
    return plot(
        series,
        label=f"Accuracy by level, {family}",
        x_name="level",
        y_name="pass@1",
        y_range=(0.0, 1.0),
        show_y=percent,
        whole_x=True,
    )


def _score_cells(row: Score, bench: Bench) -> tuple[str, ...]:
    size = bench.parameters.get(row.checkpoint)
    shown = (
        ""
        if size is None
        else compact(size[0])
        if size[0] == size[1]
        else f"{compact(size[0])} ({compact(size[1])} active)"
    )
    return (
        row.checkpoint,
        bench.roles.get(row.checkpoint, ""),
        row.metric,
        f"{row.value:.1%}",
        f"{row.low:.1%} to {row.high:.1%}",
        f"{row.n:,}",
        f"{row.truncated:.1%}",
        f"{row.no_answer:.1%}",
        f"{row.tokens_per_answer:,.1f}" if row.tokens_per_answer else "",
        shown,
        f"{compact(bench.weights[row.checkpoint])}B" if row.checkpoint in bench.weights else "",
    )


def _cell(row: Score | None) -> str:
    return "" if row is None else f"{row.value:.1%} [{row.low:.0%}, {row.high:.0%}]"


def _problems(rows: Sequence[Score]) -> str:
    counts = sorted({row.n for row in rows})
    return f"{counts[0]:,} problems" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} problems"


def _protocols(rows: Sequence[Score]) -> str:
    names = sorted({row.protocol for row in rows})
    return f"Protocol {', '.join(names)}."


def _notes(bench: Bench) -> str:
    """What the bench says a reader must know: problems left out, labels it disagrees with."""
    notes = bench.manifest.report.marks.get("notes", ())
    entries = "".join(f"<li>{text(note)}</li>" for note in notes)
    rows = [
        (
            row.checkpoint,
            row.problem_id,
            "right" if row.label else "wrong",
            row.status,
            row.extracted or "",
            row.expected or "",
        )
        for row in bench.disagreements[:DISAGREEMENTS_SHOWN]
    ]
    head = ("checkpoint", "problem", "label", "judge", "read as", "expected")
    listing = more(f"Where judge and label differ ({len(bench.disagreements):,})", table(head, rows)) if rows else ""
    return (f'<ul class="notes">{entries}</ul>' if entries else "") + listing
