"""A harvest's report says who waits for whom: the sampler for the judge, or not."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from distill.harvest import HarvestConfig, harvest, overlap
from distill.jsonl import write_jsonl
from distill.problems.families import family
from distill.problems.stage import draw
from distill.records import Problem, Trace, Verdict
from distill.sampling.oracle import OracleSampler
from distill.sampling.protocols import Answered, Request
from tests.test_harvest import QUIET, Comparing


class Clock:
    """Stands still unless somebody works."""

    def __init__(self) -> None:
        self.seconds = 0.0


class Slow(Comparing):
    """Thinks so long about every trace."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def _judge(self, pair: tuple[Problem, Trace]) -> Verdict:
        self.clock.seconds += self.seconds
        return super()._judge(pair)


class SlowOracle(OracleSampler):
    """Takes a second for every trace."""

    def __init__(self, problems: Iterable[Problem], clock: Clock) -> None:
        super().__init__(problems, error_rate=0.0)
        self.clock = clock

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for answered in super().sample(requests):
            self.clock.seconds += 1
            yield answered


@pytest.mark.parametrize(("seconds", "share"), [(0, 0), (0.25, 0.2), (1, 0.5), (9, 0.9)])
def test_a_report_says_how_long_the_sampler_waited_for_the_judge(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, share: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(overlap, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    problems = draw(family("stories"), 1, "train", 12, seed=0).problems
    write_jsonl(tmp_path / "problems.jsonl", problems)
    config = HarvestConfig(problems="./problems.jsonl", sampler="oracle", error_rate=0.0, max_tokens=200)
    sampler, judge = SlowOracle(problems, clock), Slow(clock, seconds)
    report = harvest(
        tmp_path / "problems.jsonl", tmp_path / "out", config, sampler=sampler, judge=judge, seed=0, progress=QUIET
    )
    assert report.counts["waited_for_judge"] == pytest.approx(share, abs=1e-3)
    assert any("the sampler waited for the judge" in line for line in report.lines)
