"""Harvest: ask a sampler for n traces a problem and have each one judged.

What was asked for and judged is told by verdict, family and level.
Does not choose which traces to keep: that is curate's work.
"""

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from distill.errors import UserError
from distill.harvest.config import HarvestConfig
from distill.harvest.draw import Judge, Judged, sample_and_judge
from distill.progress import Progress
from distill.records import Status
from distill.runs import Report
from distill.sampling.protocols import Sampler
from distill.selection import asking, read_problems, select


def harvest(
    problems: Path,
    out: Path,
    config: HarvestConfig,
    *,
    sampler: Sampler,
    judge: Judge | None,
    seed: int,
    progress: Progress,
    chat_fingerprint: str = "",
) -> Report:
    """Sample and judge the selected problems into `out`; what is stored there already is kept.

    `judge` is None when the config defers verdicts. `chat_fingerprint` names the chat
    template the sampler renders with.
    """
    chosen = select(read_problems(problems), config.select, problems)
    rows = sample_and_judge(
        chosen,
        out,
        config.params,
        config.samples,
        sampler=sampler,
        judge=None if config.defer_verdicts else judge,
        seed=seed + config.seed,
        progress=progress,
        template=chat_fingerprint,
        ask=asking(config.instruction),
    )
    return _report(rows, len(chosen), config, sampler)


def _report(rows: Iterable[Judged], problems: int, config: HarvestConfig, sampler: Sampler) -> Report:
    """Count what was harvested: verdicts, tokens, and the yield of every family and level."""
    begun = time.monotonic()
    statuses: Counter[str] = Counter()
    groups: dict[tuple[str, int | None], Counter[str]] = {}
    resumed = tokens = 0
    for row in rows:
        status = row.verdict.status if row.verdict else "unjudged"
        statuses[status] += 1
        groups.setdefault((row.problem.source, row.problem.level), Counter())[status] += 1
        resumed += row.resumed
        tokens += 0 if row.resumed else row.trace.completion_tokens
    seconds = time.monotonic() - begun
    total, expected = statuses.total(), problems * config.samples
    if not total:
        raise UserError(f"harvest: {sampler.identity.name} completed none of {expected} samples")
    rate = tokens / max(seconds, 1e-9)
    lines = [f"{total:,} traces of {problems:,} problems ({resumed:,} kept from before), {rate:,.0f} tokens/s"]
    if total < expected:
        lines.append(f"{expected - total:,} of {expected:,} samples did not arrive")
    lines.append(
        "  ".join(f"{status} {statuses[status]:,}" for status in (*get_args(Status), "unjudged") if statuses[status])
    )
    table = {}
    for (family, level), group in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        name = family if level is None else f"{family}/level-{level}"
        table[name] = {"n": group.total(), "correct": group["correct"]}
        lines.append(f"{name:<32} n {group.total():>8,}  correct {group['correct'] / group.total():>6.1%}")
    return Report(
        counts={
            "problems": problems,
            "traces": total,
            "resumed": resumed,
            "missing": expected - total,
            "tokens_per_second": round(rate, 1),
            **statuses,
        },
        tokens=tokens,
        lines=tuple(lines),
        marks={
            "sampler": sampler.identity.model_dump(),
            "params": config.params.model_dump(),
            "samples": config.samples,
            "yield": table,
        },
    )
