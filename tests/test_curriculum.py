"""Examples stand in one order; further ones are indexes that training reads."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from distill.curate import CurateConfig
from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.train.rows import read_rows
from tests.curate_world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_often_solved_problems_come_first_by_pass_rate_of_all_their_traces(world: World) -> None:
    hard, easy = world.say("p1", "a"), world.say("p2", "b")
    world.say("p1", "c", status="wrong")
    world.say("p1", "d", status="timeout")
    world.say("p2", "e", status=None)  # never judged: no attempt
    world.curate(order="pass-rate")
    assert world.kept() == [easy, hard]


def test_a_pass_rate_nobody_knows_is_not_guessed(world: World) -> None:
    silent = world.say("p1", status=None)
    with pytest.raises(UserError, match=f"order pass-rate: trace {silent} has a problem without any verdict"):
        world.curate(keep="all", order="pass-rate")


def test_a_further_order_is_an_index_into_the_rows_as_they_stand(world: World) -> None:
    for problem_id, text in (("p3", "ccccccc"), ("p3", "bb"), ("p1", "aaaa"), ("p1", "a")):
        world.say(problem_id, text)
    world.curate(order="level", orders=("length", "none"))
    places = [int(line) for line in (world.folder / "out/order-length.jsonl").read_text().splitlines()]
    assert [world.kept()[place] for place in places] == ["t03", "t01", "t02", "t00"]
    places = [int(line) for line in (world.folder / "out/order-none.jsonl").read_text().splitlines()]
    assert [world.kept()[place] for place in places] == ["t02", "t03", "t00", "t01"]


def said(world: World, order: str | None) -> list[int]:
    chat = Chat(mini_tokenizer())
    return read_rows(world.folder / "out", chat, 1000, 64, "refuse", order).lengths


def test_training_reads_the_order_it_names(world: World) -> None:
    world.problems[0] = world.problems[0].model_copy(update={"prompt": "1"})
    for thought in ("1 1 1", "2", "3 3"):
        world.say(reasoning=thought)
    world.curate(orders=("length",))
    longest, shortest, middle = said(world, None)
    assert shortest < middle < longest
    assert said(world, "length") == [shortest, middle, longest]


def test_an_order_that_was_not_written_is_named_with_those_that_were(world: World) -> None:
    world.say()
    world.curate(orders=("length",))
    with pytest.raises(UserError, match=r"order-loss\.jsonl: no such order; there are length besides"):
        said(world, "loss")


def test_an_index_of_other_rows_is_refused(world: World) -> None:
    world.problems[0] = world.problems[0].model_copy(update={"prompt": "1"})
    world.say(reasoning="1")
    world.say(reasoning="2")
    world.curate(orders=("length",))
    for wrong in ("0\n", "0\n0\n", "0\n2\n", "0\n1\n2\n", "0\nx\n"):
        (world.folder / "out/order-length.jsonl").write_text(wrong)
        with pytest.raises(UserError, match="expected each number from 0 to 1 once"):
            said(world, "length")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        pytest.param({"orders": ("level", "level")}, "orders: expected each once", id="twice"),
        pytest.param({"orders": ("none",)}, "none of them 'none'", id="the order they stand in"),
        pytest.param({"order": "loss"}, "needs `measures`", id="losses nobody measured"),
    ],
)
def test_orders_that_cannot_be_written_are_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        CurateConfig.model_validate({"traces": "h", "problems": "p", "against": "p", **fields})
