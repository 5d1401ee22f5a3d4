"""What other graders get wrong, this one does not."""

import pytest

from distill.judge import Judge, Said
from distill.records import Problem
from tests.grader_faults import FALSE_ACCEPTS, FALSE_REJECTS


@pytest.fixture(scope="module")
def judge():
    with Judge() as judge:
        yield judge


def judged(judge, gold, text):
    row = Problem(id="p", kind="answer", prompt="?", answer=gold, source="math", split="test")
    return judge.judge(row, Said(text)).status


@pytest.mark.parametrize(("grader", "fault", "gold", "text"), FALSE_ACCEPTS, ids=lambda value: str(value)[:40])
def test_what_others_accept_wrongly_is_not_correct(judge, grader, fault, gold, text):
    assert judged(judge, gold, text) != "correct"


@pytest.mark.parametrize(("grader", "fault", "gold", "text"), FALSE_REJECTS, ids=lambda value: str(value)[:40])
def test_what_others_reject_wrongly_is_correct(judge, grader, fault, gold, text):
    assert judged(judge, gold, text) == "correct"
