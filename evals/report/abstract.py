"""Abstract: the page in a few sentences, from its own figures.

Says who was best and what every compared pair settles. A difference whose interval holds zero settles nothing, and
that is what is said of it.
"""

from collections.abc import Sequence

from evals.report.collect import Bench, Collected
from evals.report.drawing import signed, text
from evals.scoring import ALL, PASS_1, Paired

PAIRS = 8
"""Pairs told of one bench."""


def abstract(found: Collected) -> str:
    """Paragraphs as HTML; empty without a bench."""
    told = "".join(f"<p>{_bench(bench, several=len(found.benches) > 1)}</p>" for bench in found.benches)
    return f'<div class="abstract">{told}</div>' if told else ""


def _bench(bench: Bench, *, several: bool) -> str:
    rows = [row for row in bench.scores if row.task == ALL and row.metric == PASS_1]
    top = max(row.value for row in rows)
    best = [row for row in rows if row.value == top]
    name = f"<strong>{text(bench.name)}.</strong> " if several else ""
    asked = f"{max(row.n for row in rows):,} problems{', as recorded' if bench.recorded else ''}"
    share = f"<b>{top:.1%}</b> ({best[0].low:.1%} to {best[0].high:.1%})"
    who = text(" and ".join(row.checkpoint for row in best))
    parts = [f"{name}{who} solved {share} of {asked}."]
    if len(rows) > 1:
        parts = [f"{name}{len(rows)} checkpoints answered {asked}. {who} solved most, {share}."]
    pairs = [row for row in bench.paired if row.task == ALL][:PAIRS]
    return " ".join(parts + _pairs(pairs))


def _pairs(pairs: Sequence[Paired]) -> list[str]:
    settled = [row for row in pairs if row.low > 0 or row.high < 0]
    told = [
        f"{text(row.a)} is <b>{abs(row.difference) * 100:.1f} points</b> {'above' if row.difference > 0 else 'below'} "
        f"{text(row.b)} ({signed(row.low)} to {signed(row.high)})"
        for row in settled
    ]
    open_ = [
        f"{text(row.a)} and {text(row.b)} ({signed(row.difference)}; {signed(row.low)} to {signed(row.high)})"
        for row in pairs
        if row not in settled
    ]
    sentences = [f"On the same problems {'; '.join(told)}."] if told else []
    return sentences + ([f"Not to be told apart: {'; '.join(open_)}."] if open_ else [])
