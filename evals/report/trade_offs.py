"""Trade-offs: accuracy against what it costs to have it - tokens an answer, bytes on disk, active parameters.

Points are the bench's own scores with their intervals. Bytes are those of the weight files as they lie there, so
a quantized copy stands left of the checkpoint it came from; parameters are counted where a checkpoint was made.
Seconds are not drawn: they belong to a machine and its load, not to a checkpoint.
"""

from collections.abc import Callable, Mapping

from distill.records import Score
from evals.report.charts import Mark, Series, plot
from evals.report.collect import Bench
from evals.report.drawing import compact, legend, percent, text
from evals.scoring import ALL, PASS_1


def trade_offs(bench: Bench) -> str:
    """A panel for each price that differs between checkpoints; empty without one."""
    rows = {row.checkpoint: row for row in bench.scores if row.task == ALL and row.metric == PASS_1}
    prices: list[tuple[str, str, Mapping[str, float], Callable[[float], str]]] = [
        ("Tokens", "tokens an answer", {n: row.tokens_per_answer for n, row in rows.items()}, compact),
        ("Size on disk", "bytes of weights", {n: float(size) for n, size in bench.weights.items()}, _bytes),
        (
            "Parameters",
            "parameters active for one token",
            {n: float(p[1]) for n, p in bench.parameters.items()},
            compact,
        ),
    ]
    panels = [
        f"<div><h3>{text(title)}</h3>{_panel(bench, rows, x_name, values, show)}</div>"
        for title, x_name, values, show in prices
        if len({value for name, value in values.items() if value > 0 and name in rows}) > 1
    ]
    if not panels:
        return ""
    return legend(list(enumerate(bench.checkpoints))) + f'<div class="pair three">{"".join(panels)}</div>'


def _panel(
    bench: Bench, rows: Mapping[str, Score], x_name: str, values: Mapping[str, float], show: Callable[[float], str]
) -> str:
    series = []
    for index, name in enumerate(bench.checkpoints):
        if name in rows and values.get(name, 0) > 0:
            row, x = rows[name], values[name]
            title = f"{name}: {row.value:.1%} [{row.low:.1%}, {row.high:.1%}], {show(x)} {x_name}"
            series.append(Series(name, index, [Mark(x, row.value, row.low, row.high, title)]))
    spread = [one.marks[0].x for one in series]
    return plot(
        series,
        label=f"Accuracy against {x_name}",
        x_name=x_name,
        y_name="pass@1",
        y_range=(0.0, 1.0),
        show_x=show,
        show_y=percent,
        log_x=max(spread) > 4 * min(spread),
        line=False,
        width=340,
    )


def _bytes(value: float) -> str:
    return f"{compact(value)}B" if value >= 1000 else f"{value:g} B"
