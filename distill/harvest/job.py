"""Job: all samples one round wants, under the ids they will have, and the requests that bring what is missing.

Several teachers are asked side by side, each for its own samples. One that is gone is noted, one request
that is refused is written down and not asked again.
Does not judge (draw.py).
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from distill.errors import LostError
from distill.harvest.accounting import Account
from distill.harvest.lost import Lost
from distill.harvest.refusals import Refusal, Refusals
from distill.harvest.together import together
from distill.ledger import Ledger, read_ledger, trace_id
from distill.progress import Progress
from distill.prompts import bare, to_trace
from distill.records import Completion, Params, Problem, Trace, Verdict
from distill.sampling.protocols import Answered, Request, Sampler
from distill.selection import Ask


@dataclass(frozen=True, slots=True, eq=False)
class Speaker:
    """Who is asked; all of it goes into the ids, but not the name."""

    sampler: Sampler
    seed: int
    """That of the run and the table together."""
    template: str = ""
    """Fingerprint of the chat template the sampler renders with."""
    name: str = ""
    """The teacher's among several; empty where there is one."""


@dataclass(frozen=True, slots=True)
class Want:
    """Samples `first` to `first + n - 1` of one conversation about a problem."""

    speaker: Speaker
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

    def opened(self) -> bool:
        """Whether the prompt opens the think block."""
        if self.whole is not None:
            return self.think_open
        return self.speaker.sampler.think_open and not bare(self.ask(self.problem))


class Job:
    """All samples one call wants, under the ids they will have."""

    def __init__(
        self,
        wants: Sequence[Want],
        round: int,
        account: Account | None,
        refusals: Refusals,
        lost: Lost,
        progress: Progress,
    ) -> None:
        self.wants, self.round, self.account, self.progress = wants, round, account, progress
        self.refusals, self.lost = refusals, lost
        self.unaffordable = False
        """Whether something is missing because the account affords no more."""
        self.speakers = {want.speaker.name: want.speaker for want in wants}
        self.owed: Counter[str] = Counter()
        """Samples by teacher that are neither stored nor refused."""
        self._settled: set[str] = set()
        self._asked: dict[tuple[str, Request], int] = {}
        self._counting = threading.Lock()
        """Teachers take their requests from threads of their own."""
        self.ids: list[list[str]] = []
        self.wanted: dict[str, tuple[Want, int]] = {}
        for want in wants:
            messages, parent = want.ask(want.problem), None if want.parent is None else want.parent.id
            self.ids.append(
                [
                    trace_id(
                        want.problem.id,
                        messages,
                        sampler=want.speaker.sampler.identity,
                        template=want.speaker.template,
                        params=want.params,
                        seed=want.speaker.seed,
                        round=round,
                        sample_index=index,
                        parent=parent,
                    )
                    for index in range(want.first, want.first + want.n)
                ]
            )
            self.wanted.update((id_, (want, index)) for index, id_ in enumerate(self.ids[-1], want.first))
        assert len(self.wanted) == sum(want.n for want in wants), "two wants of the same samples"

    def again(self, ledger: Path, known: dict[str, Verdict]) -> Iterator[tuple[Problem, Trace]]:
        """Stored traces a kill left without a verdict."""
        for trace in read_ledger(ledger, Trace):
            if trace.id in self.wanted and trace.id not in known:
                yield self.wanted[trace.id][0].problem, trace

    def begin(self, stored: set[str]) -> int:
        """How many samples are missing beside those stored and those refused before."""
        self._settled = stored | (self.wanted.keys() & self.refusals.rows.keys())
        names = (want.speaker.name for id_, (want, _) in self.wanted.items() if id_ not in self._settled)
        self.owed = Counter(names)
        return self.owed.total()

    def sampled(self, trace: Trace) -> int:
        """Completion tokens sampled for a trace; what it continues was counted before."""
        want, _ = self.wanted[trace.id]
        before = want.parent.completion_tokens if want.whole is not None and want.parent is not None else 0
        return trace.completion_tokens - before

    def draw(self, ledger: Ledger) -> Iterator[tuple[Problem, Trace]]:
        """Sample what is missing, into the ledger. Completions that were cancelled are not stored."""
        queues = {name: _Missing(self._requests(name)) for name in self.speakers}
        while queues := {
            name: left for name, left in queues.items() if left.next is not None and name not in self.lost.errors
        }:
            before = {name: left.next for name, left in queues.items()}
            if self.account is not None:
                self.account.begin()
            parts = [(name, self.speakers[name].sampler, self._affordable(name, left)) for name, left in queues.items()]
            with closing(together(parts)) as heard:
                for name, said in heard:
                    if isinstance(said, LostError):
                        self.lost.add(name, said, self.progress, alone=len(self.speakers) == 1)
                    else:
                        yield from self._keep(name, said, ledger)
            still = [name for name, left in queues.items() if left.next is not None and name not in self.lost.errors]
            if still and all(left.next is before[name] for name, left in queues.items()):
                self.unaffordable = True
                return
        if self.account is not None:  # what is missing now, teachers that are gone owe
            self.account.spent_out = None

    def _keep(self, name: str, answered: Answered, ledger: Ledger) -> Iterator[tuple[Problem, Trace]]:
        """Store what was said, and what will not be."""
        request = answered.request
        place = self._asked.pop((name, request))
        traces, refused = [], []
        for index, completion in enumerate(answered.completions, request.first):
            if completion.finish != "cancelled":
                traces.append(self._trace(place, index, completion))
            elif answered.refused:
                refused.append(self._refusal(place, index, answered.refused))
        self.refusals.add(refused)
        kept = ledger.extend(traces)
        self.owed[name] -= len(refused) + len(kept)
        if self.account is not None:
            with self._counting:
                self.account.take(name, request, kept)
        problem = self.wants[place].problem
        yield from ((problem, trace) for trace in kept)

    def _affordable(self, name: str, missing: "_Missing") -> Iterator[Request]:
        """What is missing of one teacher's, as far as the account affords it at worst beside all that is under way.

        Answers that cost less than that make room again, for those who come back for more.
        """
        sampler = self.speakers[name].sampler.identity.name
        while missing.next is not None:
            place, request = missing.next
            with self._counting:
                fits = request.n if self.account is None else self.account.admits(name, request, sampler)
            if not fits:
                return
            if fits < request.n:
                rest = replace(request, n=request.n - fits, seed=request.seed + fits, first=request.first + fits)
                missing.next, request = (place, rest), replace(request, n=fits)
            else:
                missing.take()
            self._asked[name, request] = place
            yield request

    def _requests(self, name: str) -> Iterator[tuple[int, Request]]:
        """One request per run of a teacher's missing indexes: sample k of a request is drawn from its seed + k."""
        places: Sequence[int] = range(len(self.wants))
        if self.account is not None and self.account.limited:  # what is there when it is spent stands for all
            places = sorted(places, key=lambda place: problem_seed(0, self.wants[place].problem.id))
        for place in places:
            want = self.wants[place]
            if want.speaker.name != name:
                continue
            missing = [index for index, id_ in enumerate(self.ids[place], want.first) if id_ not in self._settled]
            for first, count in _runs(missing):
                messages = want.ask(want.problem)
                yield place, Request(want.problem.id, messages, want.params, count, want.seed + first, first)

    def _trace(self, place: int, index: int, completion: Completion) -> Trace:
        want = self.wants[place]
        return to_trace(
            completion if want.whole is None else want.whole(completion),
            think_open=want.opened(),
            id=self.ids[place][index - want.first],
            problem_id=want.problem.id,
            sampler=want.speaker.sampler.identity,
            params=want.params,
            round=self.round,
            sample_index=index,
            parent=None if want.parent is None else want.parent.id,
            examples=want.examples,
        )

    def _refusal(self, place: int, index: int, why: str) -> Refusal:
        want = self.wants[place]
        return Refusal(
            trace_id=self.ids[place][index - want.first],
            problem_id=want.problem.id,
            sampler=want.speaker.sampler.identity,
            teacher=want.speaker.name or None,
            round=self.round,
            sample_index=index,
            why=why,
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


def _runs(indexes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of each run of neighbours: 0 1 2 5 -> (0, 3), (5, 1)."""
    first = 0
    for place, index in enumerate(indexes):
        if place + 1 == len(indexes) or indexes[place + 1] != index + 1:
            yield indexes[first], place + 1 - first
            first = place + 1
