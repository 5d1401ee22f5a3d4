"""A teacher that checks itself: both versions kept, and how often checking mends and breaks is told."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.harvest import HarvestConfig, harvest
from distill.harvest.verify import CHECK
from distill.intervals import mean_interval
from distill.jsonl import write_jsonl
from distill.ledger import read_ledger
from distill.problems.families import family
from distill.problems.stage import draw
from distill.progress import Progress
from distill.prompts import join_thought
from distill.records import Completion, Message, Problem, SamplerId, Trace, Verdict
from distill.sampling.oracle import OracleSampler
from distill.sampling.protocols import Answered, Request
from tests.test_rounds import Comparing

QUIET = Progress("quiet")
PROBLEMS = [
    Problem(id=f"p{number}", kind="answer", prompt=f"{number} ?", answer="7", source="x", split="train")
    for number in range(40)
]


class Doubtful:
    """Wrong about 10 of 40 problems; checking mends 4 of those and breaks 3 of the other 30."""

    identity = SamplerId(name="doubtful", revision="1")
    think_open = False

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for request in requests:
            self.asked.append(request)
            number, again = int(request.id[1:]), len(request.messages) > 1
            right = number >= 10 if not again else number < 4 or number >= 13
            said = join_thought("again" if again else "first", "7" if right else "8")
            spoken = Completion(text=said, finish="stop", prompt_tokens=5, completion_tokens=4)
            yield Answered(request, (spoken,) * request.n)


def run(out: Path, sampler: Any, problems: list[Problem] = PROBLEMS, **verify: Any) -> Any:
    out.mkdir(exist_ok=True)
    write_jsonl(out / "problems.jsonl", problems)
    known = {"problems": "p", "sampler": "oracle", "error_rate": 0.5, "max_tokens": 300}
    settings = HarvestConfig.model_validate({**known, "verify": verify})
    return harvest(out, out, settings, sampler=sampler, judge=Comparing(), seed=0, progress=QUIET)


def line(done: Any, name: str) -> str:
    return next(text for text in done.lines if text.startswith(name))


def test_both_versions_are_kept_and_the_second_names_the_first(tmp_path: Path) -> None:
    sampler = Doubtful()
    run(tmp_path, sampler)
    traces = {trace.id: trace for trace in read_ledger(tmp_path / "traces", Trace)}
    second = [trace for trace in traces.values() if trace.parent]
    assert len(traces) == 80
    assert {traces[trace.parent or ""].text.split()[1] for trace in second} == {"first"}
    assert {trace.text.split()[1] for trace in second} == {"again"}
    asked, answer, check = sampler.asked[-1].messages
    assert (asked.content, answer.role, check) == ("39 ?", "assistant", Message(role="user", content=CHECK))
    assert answer.content == "<think> first </think> 7"


def test_what_checking_did_is_told_with_intervals_over_problems(tmp_path: Path) -> None:
    done = run(tmp_path, Doubtful())
    fixed, broken = mean_interval([1] * 4 + [0] * 6), mean_interval([1] * 3 + [0] * 27)
    assert line(done, "P(fixed | wrong)").split(maxsplit=3)[3] == f"40.0% [{fixed.low:.1%}, {fixed.high:.1%}] n 10"
    assert line(done, "P(broken | correct)").endswith(f"10.0% [{broken.low:.1%}, {broken.high:.1%}] n 30")
    assert done.marks["checked"] == {
        "correct -> correct": 27,
        "correct -> wrong": 3,
        "wrong -> correct": 4,
        "wrong -> wrong": 6,
    }


def test_only_what_is_not_verified_may_be_checked(tmp_path: Path) -> None:
    done = run(tmp_path, Doubtful(), of="unverified")
    assert len(list(read_ledger(tmp_path / "traces", Trace))) == 50
    assert line(done, "P(broken | correct)").endswith("n 0")


def test_an_oracle_answers_a_check_afresh(tmp_path: Path) -> None:
    """So it mends as often as it is right: a check of the whole path, not of any teacher."""
    stories = draw(family("stories"), 2, "train", 60, seed=0).problems
    done = run(tmp_path, OracleSampler(stories, error_rate=0.5), stories)
    moves = done.marks["checked"]
    wrong = moves["wrong -> correct"] + moves["wrong -> wrong"]
    assert sum(moves.values()) == 60
    assert moves["wrong -> correct"] / wrong == pytest.approx(0.5, abs=0.25)
    verdicts = list(read_ledger(tmp_path / "verdicts", Verdict))
    assert len(verdicts) == 120
