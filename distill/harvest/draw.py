"""Draw: one round of sampling under ids that are known before it begins, each sample judged.

Every trace and verdict goes into a ledger the moment it exists, so that an interrupted
round asks only for what is missing (rejection sampling as in DeepSeek-R1, section 2.3.3,
made restartable). Benchmarks are sampled through the same function. Several teachers are asked
side by side; one that is gone is told of once the others are through, and one request that is refused is
written down and not asked again.
Does not decide who gets how many samples: the caller does.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from distill.harvest.accounting import Account
from distill.harvest.job import Job, Speaker, Want
from distill.harvest.job import problem_seed as problem_seed  # part of what this file offers
from distill.harvest.lost import Lost
from distill.harvest.refusals import Refusals
from distill.ledger import Ledger, read_ledger
from distill.progress import Progress, Task, Watch
from distill.records import Params, Problem, Trace, Verdict
from distill.sampling.protocols import Sampler
from distill.selection import Ask, asking

TRACES, VERDICTS = "traces", "verdicts"


class Judge(Protocol):
    """Whoever says which traces are right."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Raise now when these problems could not be judged later: asked before the first sample is drawn."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        """One verdict a pair, in order; may read ahead, so that judging overlaps sampling."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One stored sample."""

    problem: Problem
    trace: Trace
    verdict: Verdict | None
    """None only when verdicts are deferred."""
    resumed: bool
    """True when the trace was already stored."""
    teacher: str = ""
    """Whose it is, by its name among several."""


def sample_and_judge(
    problems: Sequence[Problem],
    out: Path,
    params: Params,
    n: int,
    *,
    sampler: Sampler,
    judge: Judge | None,
    seed: int,
    progress: Progress,
    round: int = 0,
    label: str = "harvest",
    template: str = "",
    ask: Ask | None = None,
    account: Account | None = None,
    watch: Watch | None = None,
) -> Iterator[Judged]:
    """Sample indexes 0..n-1 of every problem, each yielded once it and its verdict are in the ledger.

    Stored samples come first, then the missing ones as they are completed. Nothing happens
    until the result is iterated; `out` may hold other samplers' traces, which are left alone.
    `account` says what may still be asked for: where its budget is spent, what is under way is stored and
    judged, then StoppedError raised, or the rows end where it says so. `watch` is shown beside the progress.
    """
    said, speaker = ask or asking("none"), Speaker(sampler, seed, template)
    wants = [Want(speaker, problem, said, params, problem_seed(seed, problem.id, round), 0, n) for problem in problems]
    yield from draw_and_judge(
        wants, out, judge=judge, progress=progress, round=round, label=label, account=account, watch=watch
    )


def draw_and_judge(
    wants: Sequence[Want],
    out: Path,
    *,
    judge: Judge | None,
    progress: Progress,
    round: int = 0,
    label: str = "harvest",
    account: Account | None = None,
    watch: Watch | None = None,
    refusals: Refusals | None = None,
    lost: Lost | None = None,
) -> Iterator[Judged]:
    """`sample_and_judge` of anything wanted; `round` is that of the ids.

    Raises LostError when who is asked is gone, once all others are through, unless `lost` says to go on without.
    """
    refusals, lost = refusals or Refusals(out), lost or Lost()
    job = Job(wants, round, account, refusals, lost, progress)
    if judge is not None:
        judge.prepare([want.problem for want in wants])
    with Ledger(out / TRACES) as traces, Ledger(out / VERDICTS, after=traces) as verdicts, refusals:
        report_cut(progress, traces, verdicts, *refusals.opened)
        known = {verdict.trace_id: verdict for verdict in read_ledger(out / VERDICTS, Verdict)}
        stored: set[str] = set()
        found = read_ledger(out / TRACES, Trace)
        for trace in found if account is None else account.count(found):
            if trace.id in job.wanted:
                stored.add(trace.id)
                if judge is None or trace.id in known:
                    want = job.wanted[trace.id][0]
                    yield Judged(want.problem, trace, known.get(trace.id), True, want.speaker.name)
        unjudged = 0 if judge is None else len(stored - known.keys())
        missing = job.begin(stored)
        with progress.task(label, total=missing + unjudged, unit="traces", watch=watch) as task:
            if judge is None:
                for problem, trace in job.draw(traces):
                    task.advance(tokens=job.sampled(trace))
                    yield _named(Judged(problem, trace, None, resumed=False), job)
            else:
                old = job.again(out / TRACES, known) if unjudged else iter(())
                rows = judged(judge, old, job.draw(traces), verdicts, task, sampled=job.sampled)
                yield from (_named(row, job) for row in rows)
        if job.unaffordable and account is not None:
            account.stop()
        lost.stop(job.owed)


def _named(row: Judged, job: Job) -> Judged:
    """A row with whose it is."""
    name = job.wanted[row.trace.id][0].speaker.name
    return replace(row, teacher=name) if name else row


def judged(
    judge: Judge,
    old: Iterator[tuple[Problem, Trace]],
    new: Iterator[tuple[Problem, Trace]],
    ledger: Ledger,
    task: Task,
    *,
    sampled: Callable[[Trace], int] = lambda trace: trace.completion_tokens,
) -> Iterator[Judged]:
    """Verdicts on stored traces, then on new ones. The judge pulls, so both work at once.

    `sampled`: tokens that were sampled for a trace.
    """
    waiting: deque[tuple[Problem, Trace, bool]] = deque()

    def pairs() -> Iterator[tuple[Problem, Trace]]:
        for source, resumed in ((old, True), (new, False)):
            for problem, trace in source:
                waiting.append((problem, trace, resumed))
                yield problem, trace

    seen: Counter[str] = Counter()
    for verdict in judge.judge_many(pairs()):
        problem, trace, resumed = waiting.popleft()
        assert verdict.trace_id == trace.id, "the judge must answer in order"
        verdict = ledger.append(verdict)
        seen[verdict.status] += 1
        share = f"yield {seen['correct'] / seen.total():.0%}"
        task.advance(tokens=0 if resumed else sampled(trace), facts=share)
        yield Judged(problem, trace, verdict, resumed)


def report_cut(progress: Progress, *ledgers: Ledger) -> None:
    """Say what a kill left half written in ledgers that were just opened."""
    for ledger in ledgers:
        if ledger.cut:
            progress.say(
                f"{ledger.folder.name}: cut a torn tail of {ledger.cut:,} bytes left by a kill; it is asked again"
            )
