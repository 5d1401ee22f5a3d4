"""Reliability: what k attempts are worth - one of them right, or all of them.

At least one of k is pass@k (Chen et al. 2021, equation 1). All of k is pass^k, C(c, k) / C(n, k) averaged over
problems (Yao et al. 2024, tau-bench, arXiv 2406.12045, section 3): it falls where the first rises, and the distance
between the two says how much of a score is luck. Both need several samples of every problem.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distill.intervals import mean_interval
from distill.records import Item
from evals.intervals import pass_at_k
from evals.report.charts import Mark, Series, plot, stacks
from evals.report.collect import Bench
from evals.report.drawing import legend, percent, text
from evals.report.markup import figure

MOST = 32
"""Largest k drawn."""
_SHARES = {"neither": "none", "lost": "under a half", "gained": "a half or more", "both": "all"}
"""Color of a share of right samples, which is that of flips, and what it is called."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """One checkpoint's problems as (samples, correct)."""

    name: str
    counts: tuple[tuple[int, int], ...]

    @property
    def fewest(self) -> int:
        """Samples every problem has."""
        return min((n for n, _ in self.counts), default=0)


def reliability(bench: Bench) -> str:
    """The section; empty where a problem was asked once."""
    names = bench.checkpoints
    found = [(names.index(name), _attempts(name, bench.items[name])) for name in names if name in bench.items]
    several = [(index, one) for index, one in found if one.fewest > 1]
    if not several:
        return ""
    panels = "".join(
        f"<div><h3>{text(title)}</h3>{_panel(several, all_of, title)}</div>"
        for title, all_of in (("At least one of k is right", False), ("All k are right", True))
    )
    most = max(one.fewest for _, one in several)
    rows = [(one.name, _spread(one)) for _, one in several if one.fewest == most]
    kinds = list(dict.fromkeys(kind for kind in _SHARES if any(counts[kind] for _, counts in rows)))
    key = "".join(f'<li><i class="k-{kind}"></i>{text(_SHARES[kind])}</li>' for kind in kinds)
    chart = stacks(rows, kinds, label="Problems by the share of their samples that is right")
    return (
        legend([(index, one.name) for index, one in several])
        + f'<div class="pair">{panels}</div><ul class="legend">{key}</ul>'
        + figure(chart, f"Problems by how many of their {most} samples are right; the figure is how many problems.")
    )


def _attempts(name: str, items: Iterable[Item]) -> Attempts:
    by_problem: dict[str, list[bool]] = defaultdict(list)
    for item in items:
        if item.status != "gold_bad":
            by_problem[item.problem_id].append(item.status == "correct")
    return Attempts(name, tuple((len(row), sum(row)) for row in by_problem.values()))


def _all_of(samples: int, correct: int, k: int) -> float:
    return math.comb(correct, k) / math.comb(samples, k)


def _panel(found: Sequence[tuple[int, Attempts]], all_of: bool, title: str) -> str:
    series = []
    for index, one in found:
        marks = []
        for k in range(1, min(one.fewest, MOST) + 1):
            values = [(_all_of if all_of else pass_at_k)(n, c, k) for n, c in one.counts]
            at = mean_interval(values)
            said = f"{one.name}, k {k}: {at.value:.1%} [{at.low:.1%}, {at.high:.1%}], {at.n:,} problems"
            marks.append(Mark(k, at.value, at.low, at.high, said))
        series.append(Series(one.name, index, marks))
    return plot(
        series,
        label=title,
        x_name="k",
        y_name="problems",
        y_range=(0.0, 1.0),
        show_y=percent,
        whole_x=True,
    )


def _spread(one: Attempts) -> Counter[str]:
    return Counter(
        "neither" if c == 0 else "both" if c == n else "gained" if 2 * c >= n else "lost" for n, c in one.counts
    )
