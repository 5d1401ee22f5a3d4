"""Drawing: the pieces charts are made of - axes, marks, error bars, escaped text.

Colors come from the page's style sheet by class, so nothing here knows light from dark.
"""

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

COLORS = 8
SHAPES = 4
CHAR = 6.6
"""Width of a character of 12 px text, on the generous side."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of the text after them."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A range drawn between two pixel positions, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    show: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    log: bool = False
    whole: bool = False
    """Ticks at whole numbers only."""

    def at(self, value: float) -> float:
        """Pixel position of a value."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        here = math.log10(value) if self.log else value
        return self.start + (here - low) / (high - low or 1.0) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the range."""
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / count, whole=self.whole)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 10) for i in range(first, last + 1)]


def text(value: object) -> str:
    """Anything as HTML text or attribute value: escaped, characters that could hide or turn it made visible."""
    return html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True)


def percent(value: float) -> str:
    """0.782 -> 78%"""
    return f"{value * 100:.0f}%"


def points(value: float) -> str:
    """0.05 -> +5"""
    return f"{value * 100:+.0f}".replace("-", "−") if value else "0"


def signed(value: float) -> str:
    """-0.024 -> −2.4 (points)"""
    return f"{value * 100:+.1f}".replace("-", "−")


def chance(p: float | None) -> str:
    """A p-value: 0.0312 -> 0.031; empty where there is none, and never nothing at all."""
    return "" if p is None else f"{p:.2g}" if p > 1e-300 else "< 1e-300"


def compact(value: float) -> str:
    """86272 -> 86k"""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def legend(names: Sequence[tuple[int, str]]) -> str:
    """Colors and shapes of the series in the charts beside it; the page's script lets each be switched off."""
    entries = "".join(
        f'<li><button type="button" aria-pressed="true" data-series="{index}" class="c{index % COLORS}">'
        f'<svg width="14" height="14" aria-hidden="true">{shape(index, 7, 7, 4.5)}</svg>'
        f"<span>{text(name)}</span></button></li>"
        for index, name in names
    )
    return f'<ul class="legend">{entries}</ul>'


def shape(index: int, x: float, y: float, size: float) -> str:
    """Circle, square, diamond or triangle, so that color is never alone."""
    kind = (index + index // COLORS) % SHAPES
    if kind == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'
    if kind == 1:
        side = size * 0.88
        corners = [(-side, -side), (side, -side), (side, side), (-side, side)]
    elif kind == 2:
        corners = [(0, -size * 1.3), (size * 1.3, 0), (0, size * 1.3), (-size * 1.3, 0)]
    else:
        corners = [(0, -size * 1.2), (size * 1.15, size * 0.9), (-size * 1.15, size * 0.9)]
    where = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" points="{where}"/>'


def whisker(start: float, end: float, at: float, *, upright: bool) -> str:
    """An error bar with end caps."""
    a, b, cap = f"{start:.1f}", f"{end:.1f}", 2.5 if upright else 4
    lines = [(a, b, f"{at:.1f}", f"{at:.1f}")] + [(v, v, f"{at - cap:.1f}", f"{at + cap:.1f}") for v in (a, b)]
    if upright:
        return "".join(f'<line class="bar" x1="{u}" x2="{v}" y1="{s}" y2="{t}"/>' for s, t, u, v in lines)
    return "".join(f'<line class="bar" x1="{s}" x2="{t}" y1="{u}" y2="{v}"/>' for s, t, u, v in lines)


def frame(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{text(label)}">{"".join(parts)}</svg>'
    )


def _round_step(raw: float, *, whole: bool) -> float:
    size = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next((factor * size for factor in (1, 2, 5) if factor * size >= raw - 1e-12), 10 * size)
    return max(round(step), 1) if whole else step


def _log_ticks(low: float, high: float) -> list[float]:
    """Decades, with 2 and 5 between them when the range is short."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 300 else (1,)
    return [factor * 10.0**power for power in decades for factor in factors if low <= factor * 10.0**power <= high]
