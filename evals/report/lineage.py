"""Lineage: the graph of run folders a score rests on, drawn from problems down to the bench.

Inputs that another path implies are not
drawn (the step table lists them all), so the lines that remain can be followed.
"""

from collections.abc import Mapping
from pathlib import Path

from evals.report.collect import Step
from evals.report.drawing import CHAR, frame, text

ROW, BOX, GAP = 74, 38, 18


def lineage(steps: Mapping[Path, Step], *, width: int = 1000) -> str:
    """The graph as SVG. `steps` must list inputs before users."""
    parents = {path: _needed(path, steps) for path in steps}
    depth = _depths(parents)
    rows = [[path for path in steps if depth[path] == level] for level in range(max(depth.values()) + 1)]
    sizes = {path: 24 + CHAR * max(len(step.name), len(_kind(step)) * 0.85) for path, step in steps.items()}
    widest = max(sum(sizes[path] + GAP for path in row) for row in rows)
    width = max(width, round(widest + 2 * GAP))
    middle = _place(rows, parents, sizes, width)
    parts = []
    for path in steps:
        for parent in parents[path]:
            parts.append(_edge(middle[parent], depth[parent], middle[path], depth[path]))
    parts += [_box(step, middle[path], depth[path], sizes[path]) for path, step in steps.items()]
    return frame(width, ROW * len(rows), "Which step was made from which", parts)


def _needed(path: Path, steps: Mapping[Path, Step]) -> list[Path]:
    """Inputs no other input already rests on."""
    inputs = list(dict.fromkeys(folder for _, folder in steps[path].inputs))
    implied = {above for parent in inputs for above in _above(parent, steps)}
    return [parent for parent in inputs if parent not in implied]


def _above(path: Path, steps: Mapping[Path, Step]) -> set[Path]:
    found: set[Path] = set()
    waiting = [folder for _, folder in steps[path].inputs]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += [folder for _, folder in steps[here].inputs]
    return found


def _depths(parents: Mapping[Path, list[Path]]) -> dict[Path, int]:
    """One row below the lowest input; what has no input stands right above its first user."""
    depth: dict[Path, int] = {}
    for path, above in parents.items():
        depth[path] = max((depth[parent] + 1 for parent in above), default=0)
    for path, above in parents.items():
        users = [depth[user] for user, needed in parents.items() if path in needed]
        if not above and users:
            depth[path] = min(users) - 1
    return depth


def _place(
    rows: list[list[Path]], parents: Mapping[Path, list[Path]], sizes: Mapping[Path, float], width: int
) -> dict[Path, float]:
    """Horizontal middles: each row is ordered by its inputs' middles, then spread evenly."""
    middle: dict[Path, float] = {}
    for row in rows:
        row.sort(key=lambda path: _mean([middle[parent] for parent in parents[path]], width / 2))
        space = (width - sum(sizes[path] for path in row)) / (len(row) + 1)
        x = 0.0
        for path in row:
            x += space
            middle[path] = x + sizes[path] / 2
            x += sizes[path]
    return middle


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _edge(x: float, level: int, to_x: float, to_level: int) -> str:
    y, to_y = level * ROW + 12 + BOX, to_level * ROW + 12
    bend = (to_y - y) / 2
    return (
        f'<path class="edge" d="M{x:.1f},{y} C{x:.1f},{y + bend:.1f} {to_x:.1f},{to_y - bend:.1f} {to_x:.1f},{to_y}"/>'
    )


def _box(step: Step, x: float, level: int, size: float) -> str:
    y = level * ROW + 12
    kind = _kind(step)
    style = "box" if step.manifest is not None and not step.stale else "box odd"
    return (
        f'<a href="#step-{text(step.name)}" class="{style}"><title>{text(f"{step.name}: {kind}")}</title>'
        f'<rect x="{x - size / 2:.1f}" y="{y}" width="{size:.1f}" height="{BOX}" rx="5"/>'
        f'<text x="{x:.1f}" y="{y + 17}" text-anchor="middle">{text(step.name)}</text>'
        f'<text class="tick" x="{x:.1f}" y="{y + 31}" text-anchor="middle">{text(kind)}</text></a>'
    )


def _kind(step: Step) -> str:
    if step.manifest is None:
        return "a file, or not here"
    return f"{step.manifest.stage}, made again since" if step.stale else step.manifest.stage
