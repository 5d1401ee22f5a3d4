"""Summary: what came of a harvest in rounds, by problem, by level and by round.

`passrates.jsonl` has a line a problem: correct of n samples with a 95% interval (Wilson), what
it cost and why it got no more. Only samples of the bare problem count: no continuations, no
corrections, none with worked examples. Where sampling stops on success, correct/n
overstates the chance of success (Haldane 1945, Biometrika 33); so the pass rate told by
level is that of the first round, whose n depends on nothing.
`majority.jsonl` has the labels voted for problems without gold.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from distill.harvest.config import HarvestConfig
from distill.harvest.round_file import RoundFile
from distill.harvest.standing import Drawn, Standings
from distill.harvest.verify import checked
from distill.intervals import Interval, mean_interval, wilson
from distill.jsonl import write_jsonl
from distill.records import Fraction, Problem, Record
from distill.runs import Report

PASS_RATES, MAJORITY = "passrates.jsonl", "majority.jsonl"


class PassRate(Record):
    """How often one problem is solved, as far as its samples tell."""

    problem_id: str
    source: str
    level: int | None = None
    n: int
    """Judged samples of the bare problem."""
    correct: int
    truncated: int
    value: Fraction | None = None
    low: Fraction | None = None
    high: Fraction | None = None
    verified: int
    """Traces that count, continuations, corrections and those with examples included."""
    tokens: int
    """Completion tokens spent."""
    given_up: str | None = None
    """Why it got no more samples; None when it has what it should have."""


class Label(Record):
    """An answer voted for a problem without gold."""

    problem_id: str
    answer: str
    votes: int
    runner_up: int
    voters: int
    margin: Fraction


def summarize(
    report: Report,
    history: Sequence[RoundFile],
    now: Standings,
    out: Path,
    config: HarvestConfig,
    spent_out: str | None = None,
) -> Report:
    """Write the files of a finished walk beside its ledger; the report with what they say at large.

    `spent_out`: the limit of the budget that ended the walk.
    """
    given_up = {problem_id: why for file in history for problem_id, why in file.given_up.items()}
    if spent_out is not None:
        given_up = dict.fromkeys(_open(history, now, config), f"budget: {spent_out} spent") | given_up
    rates = [_pass_rate(problem, now, given_up.get(problem.id)) for problem in now.problems.values()]
    write_jsonl(out / PASS_RATES, rates)
    verified = sum(rate.verified > 0 for rate in rates)
    tokens = sum(rate.tokens for rate in rates)
    lines = [*_rounds(history, now), *_levels(rates, now)]
    counts = {"rounds": len(history), "verified_problems": verified, "given_up": len(given_up), "tokens": tokens}
    marks: dict[str, object] = {"rounds": [[file.how, len(file.wanted)] for file in history]}
    if config.rounds is not None and config.rounds.until_verified is not None:
        target = config.rounds.until_verified
        counts["settled_problems"] = sum(rate.verified >= target for rate in rates)
        lines.append(f"{counts['settled_problems']:,} of {len(rates):,} problems have {target} verified traces")
    lines.append(f"{verified:,} of {len(rates):,} problems have a verified trace, for {tokens:,} tokens")
    if given_up:
        reasons = defaultdict[str, int](int)
        for why in given_up.values():
            reasons[why.split(":")[0]] += 1
        told = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
        lines.append(f"{len(given_up):,} given up: {told}")
    if config.majority is not None:
        labels = [label for problem_id in now.problems if (label := _label(problem_id, now)) is not None]
        write_jsonl(out / MAJORITY, labels)
        without = sum(problem.kind == "open" for problem in now.problems.values())
        lines.append(f"{len(labels):,} of {without:,} problems without gold have a majority label ({MAJORITY})")
    if config.forcing is not None:
        ended = [row for row in now.rows.values() if row.how == "continue"]
        right = sum(row.status == "correct" for row in ended)
        stopped = sum(row.finish == "stop" for row in ended)
        lines.append(f"{len(ended):,} truncated thoughts continued: {stopped:,} ended, {right:,} of them correct")
    if config.verify is not None:
        found = checked(now)
        lines.append(f"P(fixed | wrong)    {_told(found.fixed)}")
        lines.append(f"P(broken | correct) {_told(found.broken)}")
        marks["checked"] = {f"{before} -> {after}": n for (before, after), n in sorted(found.became.items())}
    return report.model_copy(
        update={
            "counts": {**report.counts, **counts},
            "lines": (*report.lines, *lines),
            "marks": {**report.marks, **marks},
        }
    )


def _open(history: Sequence[RoundFile], now: Standings, config: HarvestConfig) -> list[str]:
    """Problems that would have got more: samples they were promised, or verified traces they should have."""
    target = config.rounds.until_verified if config.rounds is not None else None
    promised: dict[str, int] = defaultdict(int)
    for file in history:
        for wanted in file.wanted:
            promised[wanted.problem_id] += wanted.n
    return [
        problem_id
        for problem_id in now.problems
        if len(now.of(problem_id)) < promised[problem_id]
        or (target is not None and len(now.verified(problem_id)) < target)
    ]


def _pass_rate(problem: Problem, now: Standings, given_up: str | None) -> PassRate:
    bare = [row for row in now.samples(problem.id) if not row.shown]
    n, correct = len(bare), sum(_right(row, problem, now) for row in bare)
    low, high = wilson(correct / n, n) if n else (None, None)
    return PassRate(
        problem_id=problem.id,
        source=problem.source,
        level=problem.level,
        n=n,
        correct=correct,
        truncated=sum(row.status == "truncated" for row in bare),
        value=correct / n if n else None,
        low=low,
        high=high,
        verified=len(now.verified(problem.id)),
        tokens=now.spent(problem.id),
        given_up=given_up,
    )


def _right(row: Drawn, problem: Problem, now: Standings) -> bool:
    vote = now.vote(problem.id)
    return row.status == "correct" if vote is None else row.vote in vote.said


def _label(problem_id: str, now: Standings) -> Label | None:
    vote = now.vote(problem_id)
    if vote is None:
        return None
    return Label(
        problem_id=problem_id,
        answer=vote.answer,
        votes=vote.votes,
        runner_up=vote.runner_up,
        voters=vote.voters,
        margin=vote.margin,
    )


def _rounds(history: Sequence[RoundFile], now: Standings) -> list[str]:
    """One line a round: what it wanted, of how many problems, and what came correct."""
    came: dict[int, list[Drawn]] = defaultdict(list)
    for row in now.rows.values():
        came[row.round].append(row)
    lines = []
    for file in history:
        if file.how != "close":
            rows = came[file.round]
            right, spent = sum(row.status == "correct" for row in rows), sum(row.spent for row in rows)
            problems = len({wanted.problem_id for wanted in file.wanted})
            lines.append(
                f"round {file.round:<3} {file.how:<8} {problems:>8,} problems {len(rows):>9,} traces "
                f"{right:>8,} correct {spent:>12,} tokens"
            )
    return lines


def _levels(rates: Sequence[PassRate], now: Standings) -> list[str]:
    """One line a family and level: problems with a verified trace, traces drawn, pass rate in the first round."""
    groups: dict[tuple[str, int], list[PassRate]] = defaultdict(list)
    for rate in rates:
        groups[rate.source, rate.level or 0].append(rate)
    lines = []
    for (source, level), group in sorted(groups.items()):
        name = f"{source}/level-{level}" if level else source
        shares, drawn = [], 0
        for rate in group:
            rows = now.samples(rate.problem_id)
            drawn += len(rows)
            first = [row.status == "correct" for row in rows if row.round == 0]
            if first:
                shares.append(sum(first) / len(first))
        verified = sum(rate.verified > 0 for rate in group)
        told = _told(mean_interval(shares) if shares else None)
        lines.append(
            f"{name:<24} {verified:>5,}/{len(group):<5,} verified {drawn / len(group):>5.1f} a problem  {told}"
        )
    return lines


def _told(interval: Interval | None) -> str:
    """`61.2% [55.0, 67.1] n 240`, n in problems."""
    if interval is None:
        return "n 0"
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}] n {interval.n:,}"
