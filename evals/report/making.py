"""Making: the sections about how the checkpoints came to be - training, data, steps, lineage."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import get_args

from distill.records import Status
from evals.report.charts import Mark, Series, plot, ridges, stacks
from evals.report.collect import Collected, Point, Spoken, Step
from evals.report.drawing import compact, percent, text
from evals.report.lineage import lineage
from evals.report.markup import figure, table
from evals.report.trail import trails

STATUSES: tuple[str, ...] = get_args(Status)


LOSSES: Sequence[tuple[str, Callable[[Point], float | None]]] = (
    ("loss", lambda point: point.loss),
    ("reasoning", lambda point: point.loss_reasoning),
    ("answer", lambda point: point.loss_answer),
    ("held-out rows", lambda point: point.held_out_loss),
)
"""What the curve of a supervised run may hold, of the same tokens or of some."""


def training(found: Collected) -> str:
    """Losses and held-out accuracy of every supervised run; accuracy and reward of every reinforced one."""
    panels = []
    for name, curve in found.curves.items():
        if any(point.loss is not None for point in curve):
            panels.append(_curve(name, "loss", curve, LOSSES))
        if any(point.held_out_accuracy is not None for point in curve):
            measured = [("held-out accuracy", lambda point: point.held_out_accuracy)]
            panels.append(_curve(name, "accuracy on held-out problems", curve, measured))
        if any(point.accuracy is not None for point in curve):
            measured = [("accuracy", _accuracy), ("reward", _reward)]
            panels.append(_curve(name, "accuracy and reward of rollouts", curve, measured))
    drawn = f'<div class="pair">{"".join(panels)}</div>' if panels else ""
    return drawn + _guards(found)


def _guards(found: Collected) -> str:
    """What guards found: each student beside the base it began from."""
    marks = [
        (step.name, step.manifest.report.marks["guard"])
        for step in found.steps.values()
        if step.manifest is not None and "guard" in step.manifest.report.marks
    ]
    rows = [
        (
            name,
            where.replace("_", " "),
            f"{row['base']:.1%}",
            f"{row['student']:.1%}",
            f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})",
            f"{row['n']:,}",
            row["verdict"],
        )
        for name, mark in marks
        for where, row in mark.items()
        if where in ("target", "off_target")
    ]
    if not rows:
        return ""
    head = ("step", "problems", "base", "student", "points", "n", "verdict")
    warned = "".join(f"<li>{text(f'{name}: {line}')}</li>" for name, mark in marks for line in mark["warnings"])
    notes = f'<ul class="notes">{warned}</ul>' if warned else ""
    return f"<h3>Students beside their bases</h3>{table(head, rows)}{notes}"


def speech(found: Collected) -> str:
    """Verdict mix and lengths of everything that was sampled."""
    speakers = list(found.harvests)
    for bench in found.benches:
        for name in bench.checkpoints if not bench.recorded else []:  # their harvests are listed already
            items = bench.items.get(name, [])
            statuses: Counter[str] = Counter(item.status for item in items)
            speakers.append(Spoken(f"{bench.name}: {name}", statuses, tuple(item.tokens for item in items)))
    speakers = [one for one in speakers if one.statuses]
    if not speakers:
        return ""
    kinds = [status for status in STATUSES if any(one.statuses[status] for one in speakers)]
    mix = stacks([(one.name, one.statuses) for one in speakers], kinds, label="Verdicts of each sampler")
    key = "".join(f'<li><i class="k-{kind}"></i>{text(kind)}</li>' for kind in kinds)
    made = f'<ul class="legend">{key}</ul>' + figure(
        mix, "What the judge said about every sample; the figure is how many."
    )
    spoken = [(one.name, one.lengths) for one in speakers if any(one.lengths)]
    if spoken:
        chart = ridges(spoken, label="Length of traces", x_name="tokens of a completion")
        made += figure(chart, "Length of every completion, each row to its own height; the line is the median.")
    return made


def steps(found: Collected) -> str:
    """Every step with its time, inputs and fingerprint."""
    known = [step for step in found.steps.values() if step.manifest is not None]
    longest = max((step.manifest.seconds for step in known if step.manifest), default=0.0) or 1.0
    total = sum(step.manifest.seconds for step in known if step.manifest)
    head = {"step": "", "stage": "left", "seconds": "", "time": "left", "tokens": "", "seed": "", "fingerprint": ""}
    top = "".join(f'<th scope="col" class="{style}">{cell}</th>' for cell, style in (head | {"read": "left"}).items())
    body = "".join(_step_row(step, longest) for step in found.steps.values())
    made = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<p>{total:,.0f} seconds in {len(known)} steps.</p><div class="scroll" tabindex="0">{made}</div>'


def descent(found: Collected) -> str:
    """From the score back to the problems."""
    caption = (
        "Each step stands below what it was made from; lines that another path implies are left out. "
        "A dashed box is a file, or a folder that is gone or was made again since."
    )
    return figure(lineage(found.steps), caption) + "".join(trails(bench, found.steps) for bench in found.benches)


def environment(found: Collected) -> str:
    """Where it ran: versions, device, commit, and whether that was the same for all steps."""
    facts: dict[str, Counter[str]] = {}
    for step in found.steps.values():
        if step.manifest is not None:
            here = {"device": step.manifest.device, "commit": step.manifest.git_commit or "none"}
            for key, value in (here | step.manifest.versions).items():
                facts.setdefault(key, Counter())[value] += 1
    rows = [
        (key, "; ".join(_several(value, count, values) for value, count in values.items()))
        for key, values in facts.items()
    ]
    return table(("what", "value"), rows)


def _curve(
    name: str, what: str, curve: Sequence[Point], measured: Sequence[tuple[str, Callable[[Point], float | None]]]
) -> str:
    series = []
    for index, (kind, read) in enumerate(measured):
        marks = [Mark(point.step, value, title="") for point in curve if (value := read(point)) is not None]
        if marks:
            series.append(Series(kind, index, _thinned(marks)))
    share = what != "loss" and all(0 <= mark.y <= 1 for one in series for mark in one.marks)
    chart = plot(
        series,
        label=f"{what}, {name}",
        x_name="step",
        y_name=what.split()[0],
        y_range=(0.0, 1.0) if share else None,
        show_y=percent if share else compact,
        dots=max(len(one.marks) for one in series) <= 20,
        height=220,
    )
    names = (
        " ".join(f'<span class="c{one.index}">{text(one.name)}</span>' for one in series)
        if len(series) > 1
        else text(what)
    )
    return f'<div><h3>{text(name)} <span class="soft">{names}</span></h3>{chart}</div>'


def _thinned(marks: Sequence[Mark], most: int = 400) -> list[Mark]:
    """Means of neighbors, so that a long run stays a small drawing."""
    size = -(-len(marks) // most)
    groups = [marks[i : i + size] for i in range(0, len(marks), size)]
    return [Mark(group[-1].x, sum(mark.y for mark in group) / len(group)) for group in groups]


def _accuracy(point: Point) -> float | None:
    return point.accuracy


def _reward(point: Point) -> float | None:
    return point.reward


def _step_row(step: Step, longest: float) -> str:
    head = f'<tr id="step-{text(step.name)}"><th scope="row">{text(step.name)}</th>'
    if step.manifest is None:
        return f'{head}<td class="wrap" colspan="7">not a run folder beside this one</td></tr>'
    manifest = step.manifest
    wide = max(manifest.seconds / longest * 120, 1)
    bar = f'<svg class="time" width="120" height="8" aria-hidden="true"><rect width="{wide:.0f}" height="8"/></svg>'
    again = f" (attempt {manifest.resumed + 1})" if manifest.resumed else ""
    stale = " (made again since)" if step.stale else ""
    fields: dict[str, list[str]] = {}
    for field, folder in step.inputs:
        fields.setdefault(field, []).append(folder.name)
    read = "; ".join(f"{field}: {', '.join(names)}" for field, names in fields.items())
    return (
        f'{head}<td class="left">{text(manifest.stage)}</td>'
        f"<td>{manifest.seconds:,.1f}{again}</td>"
        f'<td class="left">{bar}</td><td>{text(f"{manifest.report.tokens:,}" if manifest.report.tokens else "")}</td>'
        f'<td>{manifest.seed}</td><td>{text(manifest.fingerprint + stale)}</td><td class="wrap">{text(read)}</td></tr>'
    )


def _several(value: str, count: int, values: Counter[str]) -> str:
    return value if len(values) == 1 else f"{value} ({count} steps)"
