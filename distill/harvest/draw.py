"""Draw: one round of sampling under ids that are known before it begins, each sample judged.

Every trace and verdict goes into a ledger the moment it exists, so that an interrupted
round asks only for what is missing (rejection sampling as in DeepSeek-R1, section 2.3.3,
made restartable). Benchmarks are sampled through the same function.
Does not decide who gets how many samples: the caller does.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from distill.harvest.accounting import Account
from distill.ledger import Ledger, read_ledger, trace_id
from distill.progress import Progress, Task, Watch
from distill.prompts import to_trace
from distill.records import Completion, Params, Problem, Trace, Verdict
from distill.sampling.protocols import Request, Sampler
from distill.selection import Ask, asking

TRACES, VERDICTS = "traces", "verdicts"


@dataclass(frozen=True, slots=True)
class Want:
    """Samples `first` to `first + n - 1` of one conversation about a problem."""

    problem: Problem
    ask: Ask
    """The conversation; when its last turn is the assistant's, the samples continue it."""
    params: Params
    seed: int
    """Sample k is drawn with `seed + k`."""
    first: int
    n: int
    parent: Trace | None = None
    """The trace the samples continue or correct."""
    whole: Callable[[Completion], Completion] | None = None
    """What a continuation is together with what it continues; None where samples stand alone."""
    think_open: bool = False
    """Whether the prompt of what is continued opened the think block."""
    examples: tuple[str, ...] | None = None
    """Traces shown as worked examples."""


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
    said = ask or asking("none")
    wants = [Want(problem, said, params, problem_seed(seed, problem.id, round), 0, n) for problem in problems]
    yield from draw_and_judge(
        wants,
        out,
        sampler=sampler,
        judge=judge,
        seed=seed,
        progress=progress,
        round=round,
        label=label,
        template=template,
        account=account,
        watch=watch,
    )


def draw_and_judge(
    wants: Sequence[Want],
    out: Path,
    *,
    sampler: Sampler,
    judge: Judge | None,
    seed: int,
    progress: Progress,
    round: int = 0,
    label: str = "harvest",
    template: str = "",
    account: Account | None = None,
    watch: Watch | None = None,
) -> Iterator[Judged]:
    """`sample_and_judge` of anything wanted; `seed` and `round` are those of the ids."""
    job = _Job(wants, sampler, seed, round, template, account)
    if judge is not None:
        judge.prepare([want.problem for want in wants])
    with Ledger(out / TRACES) as traces, Ledger(out / VERDICTS, after=traces) as verdicts:
        report_cut(progress, traces, verdicts)
        known = {verdict.trace_id: verdict for verdict in read_ledger(out / VERDICTS, Verdict)}
        stored = set()
        found = read_ledger(out / TRACES, Trace)
        for trace in found if account is None else account.count(found):
            if trace.id in job.wanted:
                stored.add(trace.id)
                if judge is None or trace.id in known:
                    yield Judged(job.wanted[trace.id][0].problem, trace, known.get(trace.id), resumed=True)
        unjudged = 0 if judge is None else len(stored - known.keys())
        with progress.task(label, total=len(job.wanted) - len(stored) + unjudged, unit="traces", watch=watch) as task:
            if judge is None:
                for problem, trace in job.draw(stored, traces):
                    task.advance(tokens=trace.completion_tokens)
                    yield Judged(problem, trace, None, resumed=False)
            else:
                old = job.again(out, known) if unjudged else iter(())
                yield from judged(judge, old, job.draw(stored, traces), verdicts, task)
        if job.refused and account is not None:
            account.stop()


class _Job:
    """All samples one call wants, under the ids they will have."""

    def __init__(
        self,
        wants: Sequence[Want],
        sampler: Sampler,
        seed: int,
        round: int,
        template: str,
        account: Account | None,
    ) -> None:
        self.wants, self.sampler, self.round, self.account = wants, sampler, round, account
        self.refused = False
        """Whether something is missing because the account affords no more."""
        self.ids: list[list[str]] = []
        self.wanted: dict[str, tuple[Want, int]] = {}
        for want in wants:
            messages, parent = want.ask(want.problem), None if want.parent is None else want.parent.id
            self.ids.append(
                [
                    trace_id(
                        want.problem.id,
                        messages,
                        sampler=sampler.identity,
                        template=template,
                        params=want.params,
                        seed=seed,
                        round=round,
                        sample_index=index,
                        parent=parent,
                    )
                    for index in range(want.first, want.first + want.n)
                ]
            )
            self.wanted.update((id_, (want, index)) for index, id_ in enumerate(self.ids[-1], want.first))

    def again(self, out: Path, known: dict[str, Verdict]) -> Iterator[tuple[Problem, Trace]]:
        """Stored traces a kill left without a verdict."""
        for trace in read_ledger(out / TRACES, Trace):
            if trace.id in self.wanted and trace.id not in known:
                yield self.wanted[trace.id][0].problem, trace

    def draw(self, stored: set[str], ledger: Ledger) -> Iterator[tuple[Problem, Trace]]:
        """Sample what is missing, into the ledger. Completions that were cancelled are not stored."""
        asked: dict[Request, int] = {}
        missing = _Missing(self._requests(stored))
        while missing.next is not None and not self.refused:
            before = missing.next
            if self.account is not None:
                self.account.begin()
            for answered in self.sampler.sample(self._affordable(missing, asked)):
                place = asked.pop(answered.request)
                traces = [
                    self._trace(place, index, completion)
                    for index, completion in enumerate(answered.completions, answered.request.first)
                    if completion.finish != "cancelled"
                ]
                problem, kept = self.wants[place].problem, ledger.extend(traces)
                if self.account is not None:
                    self.account.take(answered.request, kept)
                yield from ((problem, trace) for trace in kept)
            self.refused = missing.next is before

    def _affordable(self, missing: "_Missing", asked: dict[Request, int]) -> Iterator[Request]:
        """What is missing, as far as the account affords it at worst beside all that is under way.

        Answers that cost less than that make room again, for those who come back for more.
        """
        while missing.next is not None:
            place, request = missing.next
            fits = request.n if self.account is None else self.account.admits(request, self.sampler.identity.name)
            if not fits:
                return
            if fits < request.n:
                rest = replace(request, n=request.n - fits, seed=request.seed + fits, first=request.first + fits)
                missing.next, request = (place, rest), replace(request, n=fits)
            else:
                missing.take()
            asked[request] = place
            yield request

    def _requests(self, stored: set[str]) -> Iterator[tuple[int, Request]]:
        """One request per run of missing indexes: sample k of a request is drawn from its seed + k."""
        places: Sequence[int] = range(len(self.wants))
        if self.account is not None and self.account.limited:  # what is there when it is spent stands for all
            places = sorted(places, key=lambda place: problem_seed(0, self.wants[place].problem.id))
        for place in places:
            want = self.wants[place]
            missing = [index for index, id_ in enumerate(self.ids[place], want.first) if id_ not in stored]
            for first, count in _runs(missing):
                messages = want.ask(want.problem)
                yield place, Request(want.problem.id, messages, want.params, count, want.seed + first, first)

    def _trace(self, place: int, index: int, completion: Completion) -> Trace:
        want = self.wants[place]
        return to_trace(
            completion if want.whole is None else want.whole(completion),
            think_open=self.sampler.think_open if want.whole is None else want.think_open,
            id=self.ids[place][index - want.first],
            problem_id=want.problem.id,
            sampler=self.sampler.identity,
            params=want.params,
            round=self.round,
            sample_index=index,
            parent=None if want.parent is None else want.parent.id,
            examples=want.examples,
        )


class _Missing:
    """Requests still to be made, the next of them in hand."""

    def __init__(self, requests: Iterator[tuple[int, Request]]) -> None:
        self._rest = requests
        self.next = next(requests, None)

    def take(self) -> None:
        """The next one was made."""
        self.next = next(self._rest, None)


def problem_seed(seed: int, problem_id: str, round: int = 0) -> int:
    """Seed of a problem's sample 0; sample k adds k. Small enough for every server's 32-bit seeds."""
    digest = hashlib.sha256(f"{seed}\n{round}\n{problem_id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 2


def judged(
    judge: Judge,
    old: Iterator[tuple[Problem, Trace]],
    new: Iterator[tuple[Problem, Trace]],
    ledger: Ledger,
    task: Task,
) -> Iterator[Judged]:
    """Verdicts on stored traces, then on new ones. The judge pulls, so both work at once."""
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
        task.advance(tokens=0 if resumed else trace.completion_tokens, facts=share)
        yield Judged(problem, trace, verdict, resumed)


def report_cut(progress: Progress, *ledgers: Ledger) -> None:
    """Say what a kill left half written in ledgers that were just opened."""
    for ledger in ledgers:
        if ledger.cut:
            progress.say(
                f"{ledger.folder.name}: cut a torn tail of {ledger.cut:,} bytes left by a kill; it is asked again"
            )


def _runs(indexes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of each run of neighbours: 0 1 2 5 -> (0, 3), (5, 1)."""
    first = 0
    for place, index in enumerate(indexes):
        if place + 1 == len(indexes) or indexes[place + 1] != index + 1:
            yield indexes[first], place + 1 - first
            first = place + 1
