"""Which pieces of prompts run in one call: every token once, and no call beyond what it may hold."""

import random
from collections import deque

import pytest

from distill.records import Params
from distill.sampling.engine import Job
from distill.sampling.engine.jobs import Fill, Ticket
from distill.sampling.engine.prefill import (
    PREFILL_CACHED,
    PREFILL_PAIRS,
    PREFILL_TOKENS,
    Piece,
    calls,
    pieces,
)


def fill(number: int, length: int, done: int) -> Fill:
    job = Job(str(number), [7] * length, Params(max_tokens=1), (0,))
    return Fill(Ticket(job, number, None, 0, deque()), job.prompt_ids, [], done, 1, None, None)


def held(call: list[Piece]) -> tuple[int, int, int]:
    """Padded tokens, cached tokens read and pairs of both."""
    rows, width = len(call), max(piece.count for piece in call)
    cached = max(piece.end for piece in call) if call[0].fill.done else 0
    return rows * width, rows * cached, rows * width * cached


@pytest.mark.parametrize("budget", [None, 300])
def test_calls_run_every_piece_once_within_their_bounds(budget: int | None) -> None:
    rng = random.Random(0)
    filling = []
    for number in range(300):
        length = rng.choice([3, 40, 2000, 20_000])
        filling.append(fill(number, length, rng.choice([0, length // 2, length - 1])))
    wanted = pieces(filling, budget, 16)
    made = list(calls(wanted))
    assert sorted(piece.fill.ticket.number for call in made for piece in call) == sorted(
        piece.fill.ticket.number for piece in wanted
    )
    for call in made:
        assert len({bool(piece.fill.done) for piece in call}) == 1
        if len(call) > 1:
            assert all(size <= most for size, most in zip(held(call), BOUNDS, strict=True))


BOUNDS = (PREFILL_TOKENS, PREFILL_CACHED, PREFILL_PAIRS)


def test_a_long_beginning_that_many_share_is_not_copied_for_all_of_them_at_once() -> None:
    """512 prompts of two new tokens each pass every other bound, and would copy a million cached tokens a layer."""
    made = list(calls(pieces([fill(number, 2000, 1998) for number in range(512)], None, 16)))
    assert sum(map(len, made)) == 512
    assert len(made) == -(-512 // (PREFILL_CACHED // 2000))
