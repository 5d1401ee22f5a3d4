"""Overlap: does the sampler ever wait for the judge? A judge with a clock beside it answers.

A harvest is one chain of generators: the judge pulls traces out of the sampler, the ledger pulls
verdicts out of the judge. So at any instant exactly one of three is at work in this process, and
time in the judge is time in which nothing is asked of the sampler. Programs and algebra run in
processes of their own and cost the chain only the time it has to wait for them.

Of a server the share is an upper bound: requests in flight go on while the judge is asked.
"""

import time
from collections.abc import Iterable, Iterator

from distill.harvest.draw import Judge
from distill.records import Problem, Trace, Verdict


class Overlap:
    """A judge that says the same, and where the time went. Implements `Judge`."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.sampling = self.judging = self.last = 0.0
        """Seconds: in the sampler; in the judge; of those, after the last sample of a round was there."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """As the judge does."""
        self.judge.prepare(problems)

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        """The judge's verdicts in the judge's order."""
        source, through = iter(pairs), False

        def watched() -> Iterator[tuple[Problem, Trace]]:
            nonlocal through
            while True:
                begun = time.monotonic()
                pair = next(source, None)
                self.sampling += time.monotonic() - begun
                if pair is None:
                    through = True
                    return
                yield pair

        verdicts = self.judge.judge_many(watched())
        while True:
            begun, sampled = time.monotonic(), self.sampling
            verdict = next(verdicts, None)
            spent = time.monotonic() - begun - (self.sampling - sampled)
            self.judging += spent
            self.last += spent if through else 0.0
            if verdict is None:
                return
            yield verdict

    @property
    def share(self) -> float:
        """Of the time in sampler and judge, the part in which the sampler waited for the judge."""
        both = self.sampling + self.judging
        return self.judging / both if both else 0.0

    @property
    def line(self) -> str:
        """For the report."""
        return (
            f"the sampler waited for the judge {self.share:.1%} of the time ({self.judging:,.1f} s of "
            f"{self.sampling + self.judging:,.1f} s, {self.last:,.1f} s of them after the last sample)"
        )
