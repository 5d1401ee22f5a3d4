"""Worked examples come from verified solutions of other training problems, near ones, and no more than fit."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.harvest import HarvestConfig, harvest
from distill.harvest.draw import Judged
from distill.harvest.memory import Memory, MemoryConfig
from distill.harvest.standing import Standings
from distill.harvest.summary import PassRate
from distill.jsonl import read_jsonl, write_jsonl
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.prompts import join_thought
from distill.records import Completion, Problem, SamplerId, Trace, Verdict
from distill.sampling.protocols import Answered, Request
from tests.test_rounds import Comparing

QUIET = Progress("quiet")


def problem(id: str, prompt: str, split: str = "train", kind: str = "answer") -> Problem:
    known = {"id": id, "kind": kind, "prompt": prompt, "answer": "7", "source": "x", "split": split}
    return Problem.model_validate(known)


APPLES = "Tom has 3 apples and buys 4 more apples at the shop. How many apples has Tom now?"
HARD = problem("hard", APPLES.replace("3", "5").replace("4", "2"))
NEAR = problem("near", APPLES)
FAR = problem("far", "Solve the quadratic equation x^2 - 49 = 0 for its positive root.")


def standings(problems: list[Problem], **tokens: int) -> Standings:
    """One verified trace of every problem but the hard one."""
    now = Standings(problems, None)
    for row in problems:
        for number, length in enumerate([tokens.get(row.id, 10), 90]):
            known = {"id": f"{row.id}-{number}", "problem_id": row.id, "sampler": {"name": "s", "revision": "1"}}
            numbers = {"sample_index": number, "prompt_tokens": 5, "completion_tokens": length, "finish": "stop"}
            said = {"reasoning": "so", "answer": "7", "text": "<think> so </think> 7", "params": None}
            trace = Trace.model_validate({**known, **numbers, **said})
            status = "wrong" if row.id.startswith("hard") else "correct"
            verdict = Verdict.model_validate({"trace_id": trace.id, "judge_version": "1", "status": status})
            now.take(Judged(row, trace, verdict, resumed=False), "sample")
    return now


def recalled(now: Standings, asked: Problem = HARD, **fields: Any) -> tuple[str, ...]:
    return Memory(MemoryConfig.model_validate({"max_tokens": 1000, **fields}), now).recall(asked)


def test_the_shortest_solution_of_the_nearest_problem_is_shown_last() -> None:
    both = recalled(standings([FAR, NEAR, HARD]), max_distance=1.0)
    assert both == ("far-0", "near-0")
    assert recalled(standings([FAR, NEAR, HARD]), shown=1) == ("near-0",)


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(problem("copy", HARD.prompt), id="a copy of the problem"),
        pytest.param(problem("copy", HARD.prompt.upper() + "\n"), id="a copy in other letters"),
        pytest.param(problem("test", APPLES, split="test"), id="a held-out problem"),
        pytest.param(problem("hard-too", APPLES), id="a problem nobody solved"),
    ],
)
def test_these_are_never_shown(known: Problem) -> None:
    assert recalled(standings([known, HARD]), max_distance=1.0) == ()


def test_a_problem_is_not_shown_its_own_solution() -> None:
    assert recalled(standings([NEAR, FAR]), NEAR, max_distance=1.0) == ("far-0",)


def test_what_is_too_far_or_too_long_is_not_shown() -> None:
    assert recalled(standings([FAR, HARD]), max_distance=0.3) == ()
    assert recalled(standings([NEAR, HARD]), max_tokens=14) == ()
    assert recalled(standings([NEAR, FAR, HARD], near=40), max_tokens=20, max_distance=1.0) == ("far-0",)


def test_memory_is_bounded_and_the_same_in_whatever_order_it_was_filled() -> None:
    many = [problem(f"p{number}", f"{number} apples and {number + 1} pears") for number in range(50)]
    forward, backward = (Memory(MemoryConfig(max_tokens=99, size=7), standings(row)) for row in (many, many[::-1]))
    assert len(forward._known) == 7
    assert [known.problem.id for known in forward._known] == [known.problem.id for known in backward._known]


class Pupil:
    """Solves the hard problem only when it sees a worked example."""

    identity = SamplerId(name="pupil", revision="1")
    think_open = False

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for request in requests:
            self.asked.append(request)
            right = request.id != "hard" or len(request.messages) > 1
            said = Completion(
                text=join_thought("because", "7" if right else "8"),
                finish="stop",
                prompt_tokens=20 * len(request.messages),
                completion_tokens=4,
            )
            yield Answered(request, (said,) * request.n)


def test_examples_stand_before_the_problem_in_the_id_and_in_the_round_file(tmp_path: Path) -> None:
    asked = [FAR, NEAR, HARD, problem("hidden", APPLES.replace("3", "6"), split="test")]
    known = {"problems": "p", "sampler": "engine", "model": "m", "max_tokens": 9, "select": {"split": None}}
    tables = {"rounds": {"samples": [2, 2], "until_verified": 1}, "memory": {"max_tokens": 500, "shown": 1}}
    settings = HarvestConfig.model_validate({**known, **tables})
    write_jsonl(tmp_path / "problems.jsonl", asked)
    sampler = Pupil()
    done = harvest(tmp_path, tmp_path, settings, sampler=sampler, judge=Comparing(), seed=0, progress=QUIET)
    assert done.counts["verified_problems"] == 4
    shown = [row for row in sampler.asked if len(row.messages) > 1]
    assert [(row.id, [turn.role for turn in row.messages]) for row in shown] == [
        ("hard", ["user", "assistant", "user"])
    ]
    example, solution, question = (turn.content for turn in shown[0].messages)
    assert (example, solution, question) == (NEAR.prompt, "<think> because </think> 7", HARD.prompt)
    (trace, *_) = [row for row in read_ledger(tmp_path / "traces", Trace) if row.examples]
    wanted = json.loads((tmp_path / "rounds" / "001.json").read_bytes())["wanted"]
    assert wanted == [{"problem_id": "hard", "first": 2, "n": 2, "examples": list(trace.examples or ())}]
    rates = {row.problem_id: row for row in read_jsonl(tmp_path / "passrates.jsonl", PassRate)}
    rate = rates["hard"]
    assert (rate.n, rate.correct, rate.verified) == (2, 0, 2), "shown samples are no part of the pass rate"
    again = Pupil()
    harvest(tmp_path, tmp_path, settings, sampler=again, judge=Comparing(), seed=0, progress=QUIET)
    assert again.asked == []
