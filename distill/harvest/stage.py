"""Harvest: ask a sampler for traces of every problem and have each one judged.

As many for every problem, or in rounds that are decided from what is known (rounds.py), as far as
the budget goes (accounting.py), of one teacher or of several at once. What was asked for and judged is told
by verdict, teacher, family and level.
Does not choose which traces to keep: that is curate's work.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from distill.errors import StoppedError, UserError
from distill.harvest.accounting import Account
from distill.harvest.config import HarvestConfig
from distill.harvest.draw import TRACES, VERDICTS, Judge, Judged, draw_and_judge
from distill.harvest.job import Speaker, Want, problem_seed
from distill.harvest.lost import Lost
from distill.harvest.overlap import Overlap
from distill.harvest.panel import Panel
from distill.harvest.refusals import Refusals, told
from distill.harvest.roster import Roster
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
    sampler: Sampler | Mapping[str, tuple[Sampler, str]],
    judge: Judge | None,
    seed: int,
    progress: Progress,
    chat_fingerprint: str = "",
    begun: float | None = None,
) -> Report:
    """Sample and judge the selected problems into `out`; what is stored there already is kept.

    `sampler` is one, with `chat_fingerprint` naming the chat template it renders with, or several by
    their names in the config, each with its own. `judge` is None when the config defers verdicts.
    `begun`: monotonic time from which GPU hours count, where setting up began before. Raises StoppedError
    when the budget is spent, and LostError when a teacher is gone, unless the config says to finish.
    """
    chosen = select(read_problems(problems), config.select, problems)
    overlap = None if judge is None or config.defer_verdicts else Overlap(judge)
    speakers = _speakers(sampler if isinstance(sampler, Mapping) else {"": (sampler, chat_fingerprint)}, config, seed)
    roster = config.roster
    names, continues = tuple(one.sampler.identity.name for one in speakers.values()), config.forcing is not None
    with Account(out, config.budget, names, continues=continues, begun=begun) as account:
        panel = Panel(account, [one.sampler for one in speakers.values()])
        refusals, lost = Refusals(out), Lost(config.on_lost)
        count = partial(
            _report, config=config, speakers=speakers, overlap=overlap, account=account, panel=panel, refusals=refusals
        )
        if config.in_rounds:
            assert overlap is not None, "checked with the config"
            walk = Walk(chosen, out, config, speakers, roster, overlap, progress, refusals, lost, account, panel.lines)
            report = count(walk.rows(), chosen, lambda: walk.expected, spent=walk.spent)
            head = report.lines[: report.lines.index(overlap.line)]  # it tells levels in its own way
            report = report.model_copy(update={"lines": head})
            report = summarize(report, walk.history, walk.now, out, config, account.spent_out)
        else:
            wants = _wants(chosen, config, speakers, roster)
            rows = draw_and_judge(
                wants,
                out,
                judge=overlap,
                progress=progress,
                account=account,
                watch=panel.lines,
                refusals=refusals,
                lost=lost,
            )
            report = count(rows, chosen, lambda: sum(want.n for want in wants))
        return _with_losses(_with_spending(report, account), out, lost)


def _speakers(samplers: Mapping[str, tuple[Sampler, str]], config: HarvestConfig, seed: int) -> dict[str, Speaker]:
    """Who is asked, by name. UserError when two of them would draw the same samples."""
    speakers: dict[str, Speaker] = {}
    seen: dict[str, str] = {}
    rounds = config.rounds is not None and bool(config.rounds.temperatures)
    for name, how in config.speakers.items():
        one, template = samplers[name]
        speakers[name] = Speaker(one, seed + how.seed, template, name)
        params = how.params.model_copy(update={"temperature": None}) if rounds else how.params
        drawn = fingerprint([one.identity, template, params, how.instruction, how.seed])
        if drawn in seen:
            other = "seed (rounds.temperatures holds for both)" if rounds else "temperature or seed"
            raise UserError(
                f"teachers {seen[drawn]} and {name}: {one.identity.name} asked twice in the same way; give one of "
                f"them another {other}, or more samples instead"
            )
        seen[drawn] = name
    return speakers


def _wants(
    problems: Sequence[Problem], config: HarvestConfig, speakers: Mapping[str, Speaker], roster: Roster
) -> list[Want]:
    """As many samples of every problem as its teachers' tables say."""
    asks = {name: asking(how.instruction) for name, how in config.speakers.items()}
    params = {name: how.params for name, how in config.speakers.items()}
    return [
        Want(
            speakers[name],
            problem,
            asks[name],
            params[name],
            problem_seed(speakers[name].seed, problem.id),
            0,
            config.teachers[name].samples if config.teachers is not None else config.samples,
        )
        for problem in problems
        for name in roster.of(problem.id)
    ]


def goes_on(config: HarvestConfig, report: Report) -> bool:
    """Whether a harvest that ended short is continued: where it need not have, or what ended it was raised."""
    if "lost" in report.marks and config.on_lost == "stop":
        return True
    if "budget" not in report.marks:
        return False
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
        short = _sealed(account.out)
    return report.model_copy(update={"cost": facts.get("cost"), "lines": tuple(lines), "marks": marks, "short": short})


def _with_losses(report: Report, out: Path, lost: Lost) -> Report:
    """The report with teachers that were gone, where it ends without what they owe."""
    owed = lost.owed
    why = lost.why(owed)
    if not why:
        return report
    lines = [report.lines[0], f'SHORT: {why}; on_lost = "stop" asks again', *report.lines[1:]]
    marks = {**report.marks, "lost": {name: owed[name] for name in lost.errors if owed[name]}}
    return report.model_copy(update={"lines": tuple(lines), "marks": marks, "short": _sealed(out)})


def _sealed(out: Path) -> str:
    return fingerprint([seals(out / name) for name in (TRACES, VERDICTS)])


def _report(
    rows: Iterable[Judged],
    asked: Sequence[Problem],
    wanted: Callable[[], int],
    *,
    config: HarvestConfig,
    speakers: Mapping[str, Speaker],
    overlap: Overlap | None,
    account: Account,
    panel: Panel,
    refusals: Refusals,
    spent: Callable[[Trace], int] = lambda trace: trace.completion_tokens,
) -> Report:
    """Count what was harvested: verdicts, tokens, and the yield of every teacher, family and level."""
    begun = time.monotonic()
    statuses: Counter[str] = Counter()
    groups: dict[tuple[str, int | None], Counter[str]] = {}
    by_teacher: dict[str, Counter[str]] = {name: Counter() for name in speakers}
    resumed = tokens = 0
    for row in rows:
        status = row.verdict.status if row.verdict else "unjudged"
        statuses[status] += 1
        panel.see(status)
        by_teacher[row.teacher][status] += 1
        groups.setdefault((row.problem.source, row.problem.level), Counter())[status] += 1
        resumed += row.resumed
        tokens += 0 if row.resumed else spent(row.trace)
    seconds = time.monotonic() - begun
    total, expected, problems = statuses.total(), wanted(), len(asked)
    if not total and account.spent_out is not None:
        raise StoppedError(f"{account.why}; not one sample is affordable: raise budget.{account.spent_out}")
    if not total:
        names = ", ".join(one.sampler.identity.name for one in speakers.values())
        why = f"; {next(iter(refusals.rows.values())).why}" if refusals.rows else ""
        raise UserError(f"harvest: {names} completed none of {expected} samples{why}")
    rate = tokens / max(seconds, 1e-9)
    lines = [f"{total:,} traces of {problems:,} problems ({resumed:,} kept from before), {rate:,.0f} tokens/s"]
    missing = expected - total - len(refusals.rows)
    if missing:
        lines.append(f"{missing:,} of {expected:,} samples did not arrive")
    lines += told(refusals.rows.values())
    lines.append(
        "  ".join(f"{status} {statuses[status]:,}" for status in (*get_args(Status), "unjudged") if statuses[status])
    )
    teachers = {}
    for name, one in speakers.items() if config.teachers is not None else ():
        found = by_teacher[name]
        teachers[name] = {
            "sampler": one.sampler.identity.model_dump(),
            "kind": config.speakers[name].sampler,
            "params": config.speakers[name].params.model_dump(),
            "traces": found.total(),
            "correct": found["correct"],
        }
        share = f"{found['correct'] / found.total():>6.1%}" if found else "     -"
        lines.append(f"teacher {name:<24} n {found.total():>8,}  correct {share}  {one.sampler.identity.name}")
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
            "missing": missing,
            **({"refused": len(refusals.rows)} if refusals.rows else {}),
            "tokens_per_second": round(rate, 1),
            **({} if overlap is None else {"waited_for_judge": round(overlap.share, 4)}),
            **statuses,
        },
        tokens=tokens,
        lines=tuple(lines),
        marks={
            **({"teachers": teachers} if teachers else _asked(speakers[""], config)),
            "yield": table,
        },
    )


def _asked(one: Speaker, config: HarvestConfig) -> dict[str, object]:
    """Who was asked and how, where it is one."""
    samples = {} if config.in_rounds else {"samples": config.samples}
    return {"sampler": one.sampler.identity.model_dump(), "params": config.params.model_dump(), **samples}
