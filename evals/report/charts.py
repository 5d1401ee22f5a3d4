"""Charts: inline SVG with axes, legends and error bars, from numbers and labels alone.

Colors and type come from the page's style sheet, so that one drawing serves light, dark
and paper. Every mark carries its figures as a tooltip. Knows nothing of runs or scores.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from evals.report.drawing import CHAR, COLORS, Axis, compact, frame, percent, shape, text, whisker


@dataclass(frozen=True, slots=True)
class Mark:
    """One point, with its interval when it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    title: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one color and shape; `index` is the same for one name in all charts of a page."""

    name: str
    index: int
    marks: Sequence[Mark]


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a forest plot."""

    label: str
    value: float
    low: float
    high: float
    text: str
    index: int = 0


def plot(
    series: Sequence[Series],
    *,
    label: str,
    x_name: str,
    y_name: str,
    y_range: tuple[float, float] | None = None,
    show_x: Callable[[float], str] = compact,
    show_y: Callable[[float], str] = compact,
    log_x: bool = False,
    whole_x: bool = False,
    line: bool = True,
    dots: bool = True,
    width: int = 500,
    height: int = 250,
) -> str:
    """Points over two axes, joined by lines, with vertical error bars."""
    marks = [mark for one in series for mark in one.marks]
    low, high = y_range or _range([mark.y for mark in marks])
    xs = [mark.x for mark in marks]
    spread = (min(xs), max(xs))
    if spread[0] == spread[1]:
        spread = (spread[0] / 2, spread[0] * 2) if log_x else (spread[0] - 1, spread[0] + 1)
    pad = 14 + 3 * len(series) if whole_x else 12
    across = Axis(*spread, 52 + pad, width - 12 - pad, show_x, log_x, whole_x)
    up = Axis(low, high, height - 44, 14, show_y)
    parts = [_grid(across, up, width, height, x_name, y_name)]
    for place, one in enumerate(series):
        shift = (place - (len(series) - 1) / 2) * 6 if whole_x else 0.0
        parts.append(_series(one, across, up, shift, line=line, dots=dots))
    return frame(width, height, label, parts)


def forest(
    bars: Sequence[Bar],
    *,
    label: str,
    low: float,
    high: float,
    show: Callable[[float], str],
    zero: float | None = None,
    width: int = 1032,
) -> str:
    """One row a bar: name, value with interval on a shared axis, the figures as text."""
    row = 30
    left = 16 + CHAR * max(len(bar.label) for bar in bars)
    right = 16 + CHAR * max(len(bar.text) for bar in bars)
    height = row * len(bars) + 34
    axis = Axis(low, high, left + 12, width - right - 12, show)
    parts = []
    for tick in axis.ticks(9):
        x = axis.at(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 28}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 10}" text-anchor="middle">{text(show(tick))}</text>')
    if zero is not None:
        x = axis.at(zero)
        parts.append(f'<line class="zero" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 28}"/>')
    for place, bar in enumerate(bars):
        y = 4 + row * (place + 0.5)
        parts.append(f'<text class="name" x="{left:.1f}" y="{y + 4:.1f}" text-anchor="end">{text(bar.label)}</text>')
        parts.append(f'<g class="c{bar.index % COLORS}"><title>{text(f"{bar.label}: {bar.text}")}</title>')
        parts.append(whisker(axis.at(bar.low), axis.at(bar.high), y, upright=False))
        parts.append(shape(bar.index, axis.at(bar.value), y, 5) + "</g>")
        parts.append(f'<text class="figure" x="{width - right:.1f}" y="{y + 4:.1f}">{text(bar.text)}</text>')
    return frame(width, height, label, parts)


def stacks(
    rows: Sequence[tuple[str, Mapping[str, int]]], kinds: Sequence[str], *, label: str, width: int = 1032
) -> str:
    """Shares of a whole, one bar a row; `kinds` name the parts and their classes `k-...`."""
    row = 28
    left = 16 + CHAR * max(len(name) for name, _ in rows)
    right = 16 + CHAR * max(len(f"{sum(counts.values()):,}") for _, counts in rows)
    height = row * len(rows) + 30
    axis = Axis(0.0, 1.0, left + 12, width - right - 12, percent)
    parts = []
    for place, (name, counts) in enumerate(rows):
        y, total, done = 4 + row * place, sum(counts.values()) or 1, 0
        parts.append(f'<text class="name" x="{left:.1f}" y="{y + 17}" text-anchor="end">{text(name)}</text>')
        for kind in kinds:
            count = counts.get(kind, 0)
            if not count:
                continue
            x, end = axis.at(done / total), axis.at((done + count) / total)
            parts.append(
                f'<rect class="k-{kind}" x="{x:.1f}" y="{y + 4}" width="{max(end - x, 0.6):.1f}" height="{row - 10}">'
                f"<title>{text(f'{name}: {kind} {count:,} ({count / total:.1%})')}</title></rect>"
            )
            done += count
        parts.append(f'<text class="figure" x="{width - right:.1f}" y="{y + 17}">{sum(counts.values()):,}</text>')
    for tick in axis.ticks(4):
        x = axis.at(tick)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{percent(tick)}</text>')
    return frame(width, height, label, parts)


def ridges(rows: Sequence[tuple[str, Sequence[int]]], *, label: str, x_name: str, width: int = 1032) -> str:
    """Histograms of whole numbers over one axis, one row each, the median marked."""
    row, bins = 44, 60
    top = max(max(values) for _, values in rows)
    step = max(math.ceil((top + 1) / bins), 1)
    left = 16 + CHAR * max(len(name) for name, _ in rows)
    right = 16 + CHAR * len(f"median {top:,}")
    height = row * len(rows) + 46
    axis = Axis(0, step * math.ceil((top + 1) / step), left + 12, width - right - 12, compact, whole=True)
    parts = []
    for place, (name, values) in enumerate(rows):
        base, middle = 4 + row * (place + 1) - 6, median(values)
        counts: dict[int, int] = {}
        for value in values:
            counts[value // step] = counts.get(value // step, 0) + 1
        most = max(counts.values())
        parts.append(f'<text class="name" x="{left:.1f}" y="{base - 8}" text-anchor="end">{text(name)}</text>')
        parts.append(f'<line class="grid" x1="{axis.start:.1f}" x2="{axis.end:.1f}" y1="{base}" y2="{base}"/>')
        for slot, count in sorted(counts.items()):
            x, end = axis.at(slot * step), axis.at((slot + 1) * step)
            tall = count / most * (row - 10)
            span = f"{slot * step:,}" if step == 1 else f"{slot * step:,} to {(slot + 1) * step - 1:,}"
            parts.append(
                f'<rect class="bin" x="{x:.1f}" y="{base - tall:.1f}" width="{max(end - x - 1, 0.5):.1f}" '
                f'height="{tall:.1f}"><title>{text(f"{name}: {count:,} of {span} tokens")}</title></rect>'
            )
        x = axis.at(middle)
        parts.append(f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{base + 4}" y2="{base - row + 10}"/>')
        parts.append(f'<text class="figure" x="{width - right:.1f}" y="{base - 8}">median {middle:,.0f}</text>')
    for tick in axis.ticks(8):
        x = axis.at(tick)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 26}" text-anchor="middle">{compact(tick)}</text>')
    middle_x = (axis.start + axis.end) / 2
    parts.append(f'<text class="axis" x="{middle_x:.1f}" y="{height - 8}" text-anchor="middle">{text(x_name)}</text>')
    return frame(width, height, label, parts)


def _series(one: Series, across: Axis, up: Axis, shift: float, *, line: bool, dots: bool) -> str:
    placed = [(across.at(mark.x) + shift, up.at(mark.y), mark) for mark in one.marks]
    parts = [f'<g class="c{one.index % COLORS}" data-series="{one.index}">']
    if line and len(placed) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)
        parts.append(f'<polyline class="line" points="{path}"/>')
    for x, y, mark in placed if dots or len(placed) == 1 else []:
        error = ""
        if mark.low is not None and mark.high is not None:
            error = whisker(up.at(mark.low), up.at(mark.high), x, upright=True)
        title = f"<title>{text(mark.title)}</title>" if mark.title else ""
        parts.append(f"<g>{title}{error}{shape(one.index, x, y, 3.6)}</g>")
    return "".join(parts) + "</g>"


def _grid(across: Axis, up: Axis, width: int, height: int, x_name: str, y_name: str) -> str:
    floor, parts = height - 44, []
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<line class="grid" x1="52" x2="{width - 12}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="46" y="{y + 4:.1f}" text-anchor="end">{text(up.show(tick))}</text>')
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(f'<line class="zero" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{text(across.show(tick))}</text>'
        )
    parts.append(f'<line class="zero" x1="52" x2="{width - 12}" y1="{floor}" y2="{floor}"/>')
    middle = (52 + width - 12) / 2
    parts.append(f'<text class="axis" x="{middle:.1f}" y="{height - 8}" text-anchor="middle">{text(x_name)}</text>')
    center = f"{(floor + 14) / 2:.1f}"
    turned = f'x="12" y="{center}" text-anchor="middle" transform="rotate(-90 12 {center})"'
    parts.append(f'<text class="axis" {turned}>{text(y_name)}</text>')
    return "".join(parts)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From 0 when all are positive, with a little room above."""
    low, high = min(values), max(values)
    low = min(low, 0.0)
    return (low, high + (high - low) * 0.05) if high > low else (low, low + 1.0)
