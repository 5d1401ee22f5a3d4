"""Estimate: what a harvest will take, from a pilot over some of its problems, before it is paid for.

A pilot asks problems drawn at random for all a harvest would ask them for, rounds included. Its problems
are part of the harvest, and a sample is the same draw in both, so what they took is exact and the rest
is a total over a finite population with its 95% interval (distill.intervals). The unit is the problem:
samples of one problem are no independent knowledge of the others.
Hours are at the pilot's speed. Not covered: what other problems would have changed, as worked examples
of a larger memory do; calls that bring no trace; another speed when more is asked for at once.
Without a pilot there are only upper bounds, from the table and the problems.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.harvest.accounting import Billing, Spend, most_tokens
from distill.harvest.budget import LIMITS, BudgetConfig
from distill.harvest.config import HarvestConfig
from distill.harvest.draw import TRACES
from distill.harvest.prices import Price
from distill.intervals import total_interval
from distill.ledger import read_ledger
from distill.records import Problem, Record, Trace
from distill.selection import asking

FEWEST = 30
"""Problems of a pilot at least: below, intervals of skewed totals are wide and cover too seldom (docs/plan.md)."""


class Range(Record):
    """A predicted total with its 95% interval; without a value, `high` is a bound nothing can exceed."""

    value: float | None
    low: float
    high: float


class HarvestEstimate(Record):
    """The row of one harvest."""

    step: str
    stage: str = "harvest"
    problems: int
    piloted: int
    """Problems of the pilot; 0 without one."""
    samples: Range
    tokens: Range
    """Completion tokens."""
    prompt_tokens: Range
    hours: Range | None = None
    """None without a pilot: nothing says how fast the sampler is."""
    gpu_hours: Range | None = None
    cost: Range | None = None
    currency: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """What a harvest is paid by, as far as that is known."""

    prices: Mapping[str, Price]
    """Of tokens, or of GPU hours, by teacher; empty where nobody says."""
    hourly: float | None
    """Of one GPU for an hour."""
    currency: str
    gpus: int
    """GPUs the sampler takes; 0 where nobody says."""
    names: Mapping[str, str]
    """Samplers by teacher, as traces name them."""

    @property
    def by_sampler(self) -> dict[str, Price]:
        """Prices by who spoke."""
        return {self.names[teacher]: price for teacher, price in self.prices.items()}

    @property
    def of_tokens(self) -> bool:
        """Whether tokens cost anything."""
        return any(price.prompt is not None for price in self.prices.values())


def draw_pilot(problems: Sequence[Problem], share: float, seed: int) -> list[Problem]:
    """A share of the problems at random, `FEWEST` at least, in file order. A larger share contains a smaller one."""
    size = min(len(problems), max(FEWEST, math.ceil(share * len(problems))))
    chosen = set(sorted(range(len(problems)), key=lambda place: _lot(problems[place].id, seed))[:size])
    return [problem for place, problem in enumerate(problems) if place in chosen]


def from_pilot(
    step: str,
    config: HarvestConfig,
    problems: int,
    piloted: Sequence[Problem],
    folder: Path,
    seconds: float,
    setup: float,
    rate: Rate,
) -> HarvestEstimate:
    """The row of a harvest over `problems` problems, from the finished pilot in `folder`.

    `seconds`: how long the pilot took, all attempts together, `setup` of them before anything could be asked.
    """
    billing, spends = Billing(continues=config.forcing is not None), defaultdict[str, Spend](Spend)
    prices, costs = rate.by_sampler, defaultdict[str, float](float)
    for trace in read_ledger(folder / TRACES, Trace):
        spend = billing.of(trace)
        spends[trace.problem_id] += spend
        if trace.sampler.name in prices:
            costs[trace.problem_id] += spend.cost(prices[trace.sampler.name])
    rows = [spends[problem.id] for problem in piloted]

    def total(values: Sequence[float]) -> Range:
        found = total_interval(values, problems)
        return Range(value=found.value, low=found.low, high=found.high)

    tokens = total([row.completion for row in rows])
    seen = sum(row.completion for row in rows) or sum(row.traces for row in rows)
    pace = tokens if any(row.completion for row in rows) else total([row.traces for row in rows])
    each = max(seconds - setup, 0.0) / max(seen, 1) / 3600
    hours = _scaled(pace, each, setup / 3600)
    gpu_hours = _scaled(hours, rate.gpus) if rate.gpus else None
    cost = None
    if rate.of_tokens:
        cost = total([costs[problem.id] for problem in piloted])
    if rate.hourly is not None and gpu_hours is not None:
        cost = _sum(cost, _scaled(gpu_hours, rate.hourly))
    return HarvestEstimate(
        step=step,
        problems=problems,
        piloted=len(piloted),
        samples=total([row.traces for row in rows]),
        tokens=tokens,
        prompt_tokens=total([row.prompt for row in rows]),
        hours=hours,
        gpu_hours=gpu_hours,
        cost=cost,
        currency=rate.currency if cost is not None else "",
        notes=_limits(config.budget, {"tokens": tokens, "cost": cost, "gpu_hours": gpu_hours}),
    )


def at_most(step: str, config: HarvestConfig, problems: Sequence[Problem], rate: Rate) -> HarvestEstimate:
    """The row of a harvest that nobody has tried: bounds from its table.

    Of teachers that are asked about a problem in rounds, each may get all of them, as far as a bound knows.
    """
    groups: dict[tuple[str, ...], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[config.roster.of(problem.id)].append(problem)
    together, found = sum if config.rounds is None else max, []
    for names, asked in groups.items():
        most = (_most(config, name, asked, rate.prices.get(name)) for name in names)
        found.append([together(column) for column in zip(*most, strict=True)])
    calls, tokens, prompts, price = (sum(column) for column in zip(*found, strict=True))
    n, cost = len(problems), _bound(price) if rate.of_tokens else None
    bounds = {"tokens": _bound(tokens), "cost": cost, "gpu_hours": None}
    return HarvestEstimate(
        step=step,
        problems=n,
        piloted=0,
        samples=_bound(calls),
        tokens=_bound(tokens),
        prompt_tokens=_bound(prompts),
        cost=cost,
        currency=rate.currency if cost is not None else "",
        notes=_limits(config.budget, bounds),
    )


def _most(
    config: HarvestConfig, name: str, problems: Sequence[Problem], price: Price | None
) -> tuple[float, float, float, float]:
    """Calls, completion tokens, prompt tokens and cost of one teacher that is asked about these problems, at most."""
    how, n = config.speakers[name], len(problems)
    each = config.most_samples(name) if config.rounds is None else sum(config.rounds.samples)
    forcing, checks = config.forcing, config.verify.traces if config.verify is not None else 0
    calls = each * (1 + (forcing.times if forcing is not None else 0)) + checks
    tokens = each * (how.max_tokens + (forcing.times * forcing.max_tokens if forcing is not None else 0))
    tokens += checks * how.max_tokens
    if config.rounds is not None and config.rounds.budget_tokens is not None:
        tokens = min(tokens, config.rounds.budget_tokens)
    ask, beside = asking(how.instruction), config.longest(name) - how.max_tokens
    prompts = sum(most_tokens(ask(problem)) + beside for problem in problems) * calls
    cost = price.of_tokens(prompts, 0, n * tokens) if price is not None else 0.0
    return n * calls, n * tokens, prompts, cost


def table(rows: Sequence[HarvestEstimate]) -> tuple[str, ...]:
    """Plain aligned text for the screen: a row a step, then what is assumed."""
    columns = ("problems", "pilot", "samples", "tokens", "prompt tokens", "hours", "GPU hours", "cost")
    cells = [
        (
            f"{row.problems:,}",
            f"{row.piloted:,}" if row.piloted else "none",
            _told(row.samples, "{:,.0f}"),
            _told(row.tokens, "{:,.0f}"),
            _told(row.prompt_tokens, "{:,.0f}"),
            _told(row.hours, "{:,.3g}"),
            _told(row.gpu_hours, "{:,.3g}"),
            _told(row.cost, "{:,.4g}") + (f" {row.currency}" if row.cost else ""),
        )
        for row in rows
    ]
    kept = [place for place in range(len(columns)) if any(found[place] != "?" for found in cells)]
    name = max(len("harvest"), *(len(row.step) for row in rows))
    widths = {place: max(len(columns[place]), *(len(found[place]) for found in cells)) for place in kept}
    lines = ["  ".join([f"{'harvest':<{name}}", *(f"{columns[place]:>{widths[place]}}" for place in kept)])]
    for row, found in zip(rows, cells, strict=True):
        lines.append("  ".join([f"{row.step:<{name}}", *(f"{found[place]:>{widths[place]}}" for place in kept)]))
    told = [f"[{row.step}] {note}" for row in rows for note in row.notes]
    if any(row.piloted for row in rows):
        told.append("intervals: 95%, over problems drawn at random; hours at the pilot's speed")
    if any(not row.piloted for row in rows):
        told.append("<=: a bound from the table, every completion at its longest; --pilot 0.01 measures")
    told.append("calls that bring no trace are not counted, though a provider may charge for them")
    return (*lines, *(f"  - {line}" for line in told))


def _limits(budget: BudgetConfig | None, totals: dict[str, Range | None]) -> tuple[str, ...]:
    """What the budget of the table means for the totals."""
    notes = []
    for limit in LIMITS:
        most, found = getattr(budget, limit) if budget is not None else None, totals[limit]
        if most is not None and found is not None:
            ends = "would be spent before the end" if found.low > most else "may be spent before the end"
            verdict = "is enough" if found.high <= most else ends
            notes.append(f"budget.{limit} {most:,} {verdict}")
    return tuple(notes)


def _told(found: Range | None, form: str) -> str:
    if found is None:
        return "?"
    if found.value is None:
        return f"<={form.format(found.high)}"
    if found.low == found.high:
        return form.format(found.value)
    return f"{form.format(found.value)} [{form.format(found.low)}, {form.format(found.high)}]"


def _bound(high: float) -> Range:
    return Range(value=None, low=0.0, high=high)


def _scaled(found: Range, by: float, plus: float = 0.0) -> Range:
    low, high = found.low * by + plus, found.high * by + plus
    return Range(value=None if found.value is None else found.value * by + plus, low=low, high=high)


def _sum(one: Range | None, other: Range) -> Range:
    if one is None:
        return other
    value = None if one.value is None or other.value is None else one.value + other.value
    return Range(value=value, low=one.low + other.low, high=one.high + other.high)


def _lot(problem_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"pilot\n{seed}\n{problem_id}".encode(errors="surrogatepass")).digest()
