"""Markup: tables, figures and folds, with every value escaped."""

from collections.abc import Sequence

from evals.report.drawing import text


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, scroll: bool = True) -> str:
    """Plain cells only; the first column heads its row, and columns empty in every row are left out."""
    kept = [i for i in range(len(head)) if not rows or any(row[i] for row in rows)]
    head, rows = [head[i] for i in kept], [[row[i] for i in kept] for row in rows]
    top = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    made = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{made}</div>' if scroll else made


def figure(chart: str, caption: str) -> str:
    """A chart with what it shows in words. `chart` is markup, `caption` is text."""
    return f'<figure><div class="scroll">{chart}</div><figcaption>{text(caption)}</figcaption></figure>'


def more(title: str, inside: str) -> str:
    """A fold. `inside` is markup."""
    return f'<details class="more"><summary>{text(title)}</summary>{inside}</details>'
