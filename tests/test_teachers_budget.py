"""Several teachers and one budget: what one of them set aside and did not use is the others' again."""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.errors import LostError, StoppedError
from distill.harvest.accounting import Account
from distill.harvest.budget import BudgetConfig
from distill.records import Message, Params
from distill.runs import Report
from distill.sampling.protocols import Answered, Request
from tests.test_accounting import trace
from tests.test_rounds import PROBLEMS, run
from tests.test_teachers import Named, by_sampler, config

MOST = 20
"""Longest completion of all but the long-winded."""


def both(out: Path, a: Any, b: Any, tokens: int, problems: Any = PROBLEMS, **tables: Any) -> Report:
    teachers = {"a": {"samples": 4}, "b": {"max_tokens": b.most}}
    settings = config(teachers, budget={"tokens": tokens, **tables.pop("budget", {})}, **tables)
    return run(out, settings, {"a": (a, ""), "b": (b, "")}, problems=problems)


class Greedy(Named):
    """Takes all it is given before it answers any, then lets `turn` pass."""

    most = MOST

    def __init__(self, name: str, turn: threading.Event) -> None:
        super().__init__(name)
        self.turn = turn

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        held = list(requests)
        self.turn.set()
        yield from map(self._answer, held)


class Waiting(Named):
    """Asks for nothing before its turn."""

    most = MOST

    def __init__(self, name: str, turn: threading.Event) -> None:
        super().__init__(name)
        self.turn, self.over = turn, threading.Event()

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        assert self.turn.wait(20.0)
        for request in requests:
            yield self._answer(request)
        self.over.set()


def test_one_that_found_all_set_aside_is_asked_once_the_others_were_cheaper(tmp_path: Path) -> None:
    turn = threading.Event()
    report = both(tmp_path, Greedy("A", turn), Waiting("B", turn), tokens=4 * len(PROBLEMS) * MOST)
    assert report.counts["missing"] == 0
    assert by_sampler(tmp_path) == {"A": 4 * len(PROBLEMS), "B": len(PROBLEMS)}


def test_one_whose_samples_are_too_long_for_what_is_left_stops_the_harvest_when_the_others_are_done(
    tmp_path: Path,
) -> None:
    turn = threading.Event()
    b = Waiting("B", turn)
    b.most = 200

    class Slow(Named):
        def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
            for request in requests:
                self.asked.append(request)
                turn.set()
                assert b.over.wait(20.0)
                yield self._answer(request)

    a = Slow("A")
    with pytest.raises(StoppedError, match=r"budget spent \(tokens\)"):
        both(tmp_path, a, b, tokens=200, problems=PROBLEMS[:2])
    assert by_sampler(tmp_path) == {"A": 8}, "what is left for short samples is used"


def test_what_a_teacher_that_is_gone_owes_is_not_told_of_the_budget(tmp_path: Path) -> None:
    class Gone(Waiting):
        def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
            assert self.turn.wait(20.0)
            list(requests)  # until the budget has no room for more
            raise LostError("B: no answer for 600 s")
            yield

    turn = threading.Event()
    report = both(
        tmp_path,
        Greedy("A", turn),
        Gone("B", turn),
        tokens=4 * len(PROBLEMS) * MOST,
        budget={"on_spent": "finish"},
        on_lost="finish",
    )
    assert report.marks["lost"] == {"b": len(PROBLEMS)}
    assert "budget" not in report.marks
    assert sum(line.startswith("SHORT") for line in report.lines) == 1


def test_what_a_request_cut_to_the_budget_did_not_use_is_free_again(tmp_path: Path) -> None:
    with Account(tmp_path, BudgetConfig(tokens=100), ["m"]) as account:
        request = Request("p", (Message(role="user", content="x"),), Params(max_tokens=MOST), n=8)
        assert account.admits("", request, "m") == 5
        cut = Request(request.id, request.messages, request.params, n=5)
        account.take("", cut, [trace(str(number), 3, 1) for number in range(5)])
        rest = Request(request.id, request.messages, request.params, n=3, first=5)
        assert account.admits("", rest, "m") == 3
