"""Yields: what each harvest brought and what it took - traces, verdicts, tokens, time and money.

What was spent is what the harvest's own account says (`spent` in its manifest), over all its attempts; a harvest
without a price table has no cost, which is not a cost of nothing.
"""

from typing import Any

from distill.intervals import Interval, wilson
from distill.runs import Manifest
from evals.report.charts import Bar, forest
from evals.report.collect import Collected, Spoken
from evals.report.drawing import percent
from evals.report.markup import figure, table

HEAD = (
    "harvest",
    "traces",
    "correct",
    "yield",
    "prompt tokens",
    "tokens",
    "tokens / correct",
    "seconds",
    "GPU hours",
    "cost",
    "cost / 1,000 correct",
)


def yields(found: Collected) -> str:
    """The section; empty without a harvest."""
    manifests = {step.name: step.manifest for step in found.steps.values() if step.manifest is not None}
    spoken = [one for one in found.harvests if one.statuses]
    if not spoken:
        return ""
    shares = [(one.name, share(one)) for one in spoken]
    bars = [Bar(name, at.value, at.low, at.high, f"{at.value:.1%} of {at.n:,}", 0) for name, at in shares]
    chart = forest(bars, label="Share of traces that are correct", low=0.0, high=1.0, show=percent)
    caption = (
        "Share of traces the judge found correct, with 95% intervals that take traces for independent; several of "
        "one problem are not quite."
    )
    return figure(chart, caption) + table(HEAD, [_cells(one, manifests[one.name]) for one in spoken])


def share(spoken: Spoken) -> Interval:
    """Correct of all judged traces with Wilson's interval."""
    n, correct = sum(spoken.statuses.values()), spoken.statuses["correct"]
    low, high = wilson(correct / n, n)
    return Interval(correct / n, low, high, n)


def _cells(spoken: Spoken, manifest: Manifest) -> tuple[str, ...]:
    correct, tokens = spoken.statuses["correct"], sum(spoken.lengths)
    spent: dict[str, Any] = manifest.report.marks.get("spent", {})
    prompts = sum(row["prompt_tokens"] for row in spent.get("by_sampler", {}).values())
    cost, currency = spent.get("cost"), spent.get("currency", "")
    return (
        spoken.name,
        f"{sum(spoken.statuses.values()):,}",
        f"{correct:,}",
        f"{share(spoken).value:.1%}",
        f"{prompts:,}" if prompts else "",
        f"{tokens:,}" if tokens else "",
        f"{tokens / correct:,.1f}" if correct and tokens else "",
        f"{spent.get('seconds', manifest.seconds):,.1f}",
        f"{spent['gpu_hours']:,.3g}" if "gpu_hours" in spent else "",
        "" if cost is None else f"{cost:,.4g} {currency}",
        "" if cost is None or not correct else f"{1000 * cost / correct:,.4g} {currency}",
    )
