"""Bars: counts as a small SVG file that needs nothing else and looks the same in light and dark.

Same counts, same bytes. Draws horizontal bars only.
"""

from collections.abc import Sequence
from html import escape

ROW, LABEL, BAR, NUMBER = 20, 200, 360, 90
"""Pixels: height of a row, width of its label, of the longest bar, of the number behind it."""
MOST = 40
"""Rows drawn; the rest is summed up in one."""


def bars(title: str, counts: Sequence[tuple[str, int]]) -> str:
    """An SVG document with one bar a label, in the order given."""
    shown = list(counts[:MOST])
    if len(counts) > MOST:
        shown.append((f"{len(counts) - MOST:,} more", sum(count for _, count in counts[MOST:])))
    longest = max((count for _, count in shown), default=0) or 1
    width, height = LABEL + BAR + NUMBER, ROW * (len(shown) + 1) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LABEL}" y="15" fill="#888" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (label, count) in enumerate(shown, 1):
        top = ROW * number
        length, name = round(BAR * count / longest, 1), escape(_printable(label)[:32])
        lines += [
            f'<text x="{LABEL - 8}" y="{top + 17}" fill="#888" text-anchor="end">{name}</text>',
            f'<rect x="{LABEL}" y="{top + 5}" width="{length}" height="{ROW - 6}" fill="#4c8bc9"/>',
            f'<text x="{LABEL + length + 6}" y="{top + 17}" fill="#888">{count:,}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _printable(label: str) -> str:
    """Characters that no XML file may hold are replaced."""
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in label)
