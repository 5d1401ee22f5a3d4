"""A harvest's report says who waits for whom: the sampler for the judge, or not."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from distill.harvest import HarvestConfig, harvest
from distill.jsonl import write_jsonl
from distill.problems.families import family
from distill.problems.stage import draw
from distill.records import Problem, Trace, Verdict
from distill.sampling.oracle import OracleSampler
from distill.sampling.protocols import Answered, Request
from tests.test_harvest import QUIET, Comparing


class Slow(Comparing):
    """Thinks so long about every trace."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def _judge(self, pair: tuple[Problem, Trace]) -> Verdict:
        time.sleep(self.seconds)
        return super()._judge(pair)


class SlowOracle(OracleSampler):
    """Speaks slowly."""

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for answered in super().sample(requests):
            time.sleep(0.01)
            yield answered


@pytest.mark.parametrize(("seconds", "low", "high"), [(0.0, 0.0, 0.4), (0.1, 0.6, 1.0)])
def test_a_report_says_how_long_the_sampler_waited_for_the_judge(
    tmp_path: Path, seconds: float, low: float, high: float
) -> None:
    problems = draw(family("stories"), 1, "train", 12, seed=0).problems
    write_jsonl(tmp_path / "problems.jsonl", problems)
    config = HarvestConfig(problems="./problems.jsonl", sampler="oracle", error_rate=0.0, max_tokens=200)
    sampler, judge = SlowOracle(problems), Slow(seconds)
    report = harvest(
        tmp_path / "problems.jsonl", tmp_path / "out", config, sampler=sampler, judge=judge, seed=0, progress=QUIET
    )
    assert low <= report.counts["waited_for_judge"] <= high
    assert any("the sampler waited for the judge" in line for line in report.lines)
