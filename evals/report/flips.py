"""Flips: problems one checkpoint solves and another does not, for every pair the bench compared.

Two scores that are equal may rest on different problems; a quantized copy may flip many verdicts and lose nothing
on average (Dutta et al. 2024, "Accuracy is not all you need"). With several samples a problem counts by the share
of them that is right. Tests no hypothesis: the paired difference beside it does.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distill.records import Item
from evals.report.browser import anchor
from evals.report.charts import stacks
from evals.report.collect import Bench
from evals.report.drawing import text
from evals.report.markup import figure, more, table
from evals.scoring import ALL

LISTED = 12
"""Problems named for each direction of a pair."""
KINDS = {"both": "both right", "gained": "only the first", "lost": "only the second", "neither": "neither"}


@dataclass(frozen=True, slots=True)
class Flips:
    """What became of the problems both of a pair were asked."""

    a: str
    b: str
    both: int
    """Solved by both alike, at least in part."""
    gained: tuple[str, ...]
    """Problems `a` solves more often than `b`."""
    lost: tuple[str, ...]
    neither: int
    became: Mapping[tuple[str, str], int]
    """Verdict of `b` and of `a`, where each spoke once."""

    @property
    def n(self) -> int:
        """Problems both were asked."""
        return self.both + self.neither + len(self.gained) + len(self.lost)

    @property
    def rate(self) -> float:
        """Share of problems that differ."""
        return (len(self.gained) + len(self.lost)) / self.n


def flips_of(bench: Bench) -> list[Flips]:
    """One for each pair of the bench, in its order."""
    pairs = dict.fromkeys((row.a, row.b) for row in bench.paired if row.task == ALL)
    return [_flips(a, b, bench.items.get(a, ()), bench.items.get(b, ())) for a, b in pairs]


def flips(bench: Bench) -> str:
    """The section; empty where nothing was compared."""
    found = flips_of(bench)
    if not found:
        return ""
    bars = [
        (
            f"{one.a} − {one.b}",
            {"both": one.both, "gained": len(one.gained), "lost": len(one.lost), "neither": one.neither},
        )
        for one in found
    ]
    key = "".join(f'<li><i class="k-{kind}"></i>{text(said)}</li>' for kind, said in KINDS.items())
    chart = stacks(bars, list(KINDS), label="Problems both, one or neither of a pair solves")
    rows = [
        (
            f"{one.a} − {one.b}",
            f"{one.n:,}",
            f"{one.both:,}",
            f"{len(one.gained):,}",
            f"{len(one.lost):,}",
            f"{one.neither:,}",
            f"{one.rate:.1%}",
        )
        for one in found
    ]
    head = ("pair", "problems", "both right", "only the first", "only the second", "neither", "flipped")
    readable = {shown.problem_id for shown in bench.shown}
    folds = "".join(_fold(one, bench, readable) for one in found)
    caption = "Of each pair, the problems both solve, only one of them, or neither; the figure is how many there are."
    return f'<ul class="legend">{key}</ul>' + figure(chart, caption) + table(head, rows) + folds


def _flips(a: str, b: str, ours: Iterable[Item], theirs: Iterable[Item]) -> Flips:
    left, right = _by_problem(ours), _by_problem(theirs)
    became: Counter[tuple[str, str]] = Counter()
    both = neither = 0
    gained, lost = [], []
    for problem_id in sorted(left.keys() & right.keys()):
        x, y = left[problem_id], right[problem_id]
        if len(x) == len(y) == 1:
            became[y[0].status, x[0].status] += 1
        more_often = _share(x) - _share(y)
        if more_often > 0:
            gained.append(problem_id)
        elif more_often < 0:
            lost.append(problem_id)
        elif _share(x) > 0:
            both += 1
        else:
            neither += 1
    return Flips(a, b, both, tuple(gained), tuple(lost), neither, became)


def _by_problem(items: Iterable[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.status != "gold_bad":
            found[item.problem_id].append(item)
    return found


def _share(items: Sequence[Item]) -> float:
    return sum(item.status == "correct" for item in items) / len(items)


def _fold(one: Flips, bench: Bench, readable: set[str]) -> str:
    turned = Counter({change: count for change, count in one.became.items() if change[0] != change[1]})
    rows = [(before, after, f"{count:,}") for (before, after), count in turned.most_common()]
    listing = table((f"{one.b} was", f"{one.a} is", "problems"), rows) if rows else ""
    for said, problems in ((f"Only {one.a}", one.gained), (f"Only {one.b}", one.lost)):
        here = [problem_id for problem_id in problems if problem_id in readable][:LISTED]
        links = ", ".join(f'<a href="#{text(anchor(bench, name))}">{text(name)}</a>' for name in here)
        listing += f"<p>{text(said)}, to read below: {links}</p>" if links else ""
    return more(f"{one.a} and {one.b}: which verdict became which", listing) if listing else ""
