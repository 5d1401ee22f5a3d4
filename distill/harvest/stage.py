"""Harvest: ask a sampler for traces of every problem and have each one judged.

As many for every problem, or in rounds that are decided from what is known (rounds.py), as far as
the budget goes (accounting.py). What was asked for and judged is told by verdict, family and level.
Does not choose which traces to keep: that is curate's work.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

from distill.errors import StoppedError, UserError
from distill.harvest.accounting import Account
from distill.harvest.config import HarvestConfig
from distill.harvest.draw import TRACES, VERDICTS, Judge, Judged, sample_and_judge
from distill.harvest.overlap import Overlap
from distill.harvest.panel import Panel
from distill.harvest.summary import summarize
from distill.harvest.walk import Walk
from distill.ledger import seals
from distill.progress import Progress
from distill.records import Problem, Status, Trace, fingerprint
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
    begun: float | None = None,
) -> Report:
    """Sample and judge the selected problems into `out`; what is stored there already is kept.

    `judge` is None when the config defers verdicts. `chat_fingerprint` names the chat
    template the sampler renders with. `begun`: monotonic time from which GPU hours count, where
    setting up began before. Raises StoppedError when the budget is spent, unless it says to finish.
    """
    chosen = select(read_problems(problems), config.select, problems)
    overlap = None if judge is None or config.defer_verdicts else Overlap(judge)
    names, continues = (sampler.identity.name,), config.forcing is not None
    with Account(out, config.budget, names, continues=continues, begun=begun) as account:
        panel = Panel(account, sampler)
        if config.in_rounds:
            assert overlap is not None, "checked with the config"
            seed += config.seed
            walk = Walk(chosen, out, config, sampler, overlap, seed, progress, chat_fingerprint, account, panel.lines)
            report = _report(
                walk.rows(), chosen, lambda: walk.expected, config, sampler, overlap, account, panel, spent=walk.spent
            )
            return _with_spending(summarize(report, walk.history, walk.now, out, config, account.spent_out), account)
        rows = sample_and_judge(
            chosen,
            out,
            config.params,
            config.samples,
            sampler=sampler,
            judge=overlap,
            seed=seed + config.seed,
            progress=progress,
            template=chat_fingerprint,
            ask=asking(config.instruction),
            account=account,
            watch=panel.lines,
        )
        report = _report(rows, chosen, lambda: len(chosen) * config.samples, config, sampler, overlap, account, panel)
        return _with_spending(report, account)


def goes_on(config: HarvestConfig, report: Report) -> bool:
    """Whether a harvest its budget ended is continued: where it need not end, or what ended it was raised."""
    budget, ended = config.budget, report.marks["budget"]
    if budget is None or budget.on_spent == "stop":
        return True
    limit = getattr(budget, ended["limit"])
    return limit is None or limit > ended["of"]


def _with_spending(report: Report, account: Account) -> Report:
    """The report with what was spent, and, where that ended it, with that on top."""
    facts, lines = account.facts, [*report.lines]
    marks, short = {**report.marks, "spent": facts}, None
    lines.insert(1, f"spent {account.told}")
    if account.spent_out is not None:
        limit = account.spent_out
        marks["budget"] = {"limit": limit, "of": getattr(account.budget, limit), "why": account.why}
        lines[1] = f"SHORT: {account.why}; raise budget.{limit} to go on"
        short = fingerprint([seals(account.out / name) for name in (TRACES, VERDICTS)])
    return report.model_copy(update={"cost": facts.get("cost"), "lines": tuple(lines), "marks": marks, "short": short})


def _report(
    rows: Iterable[Judged],
    asked: Sequence[Problem],
    wanted: Callable[[], int],
    config: HarvestConfig,
    sampler: Sampler,
    overlap: Overlap | None,
    account: Account,
    panel: Panel,
    *,
    spent: Callable[[Trace], int] = lambda trace: trace.completion_tokens,
) -> Report:
    """Count what was harvested: verdicts, tokens, and the yield of every family and level."""
    begun = time.monotonic()
    statuses: Counter[str] = Counter()
    groups: dict[tuple[str, int | None], Counter[str]] = {}
    resumed = tokens = 0
    for row in rows:
        status = row.verdict.status if row.verdict else "unjudged"
        statuses[status] += 1
        panel.see(status)
        groups.setdefault((row.problem.source, row.problem.level), Counter())[status] += 1
        resumed += row.resumed
        tokens += 0 if row.resumed else spent(row.trace)
    seconds = time.monotonic() - begun
    total, expected, problems = statuses.total(), wanted(), len(asked)
    if not total and account.spent_out is not None:
        raise StoppedError(f"{account.why}; not one sample is affordable: raise budget.{account.spent_out}")
    if not total:
        raise UserError(f"harvest: {sampler.identity.name} completed none of {expected} samples")
    rate = tokens / max(seconds, 1e-9)
    lines = [f"{total:,} traces of {problems:,} problems ({resumed:,} kept from before), {rate:,.0f} tokens/s"]
    if total < expected:
        lines.append(f"{expected - total:,} of {expected:,} samples did not arrive")
    lines.append(
        "  ".join(f"{status} {statuses[status]:,}" for status in (*get_args(Status), "unjudged") if statuses[status])
    )
    if overlap is not None:
        lines.append(overlap.line)
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
            **({} if overlap is None else {"waited_for_judge": round(overlap.share, 4)}),
            **statuses,
        },
        tokens=tokens,
        lines=tuple(lines),
        marks={
            "sampler": sampler.identity.model_dump(),
            "params": config.params.model_dump(),
            **({} if config.in_rounds else {"samples": config.samples}),
            "yield": table,
        },
    )
