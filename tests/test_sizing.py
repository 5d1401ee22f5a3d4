"""The memory of the cache: what was asked for, and no more."""

from pathlib import Path

import pytest
import torch

from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.sampling.engine import Engine, room
from students.decoder import KVDecoder
from teacher.decoder import LatentDecoder
from tests.one_by_one import Toy, toy_student, toy_teacher

CHAT = Chat(mini_tokenizer())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("make", [toy_student, toy_teacher])
def test_the_cache_takes_what_the_formula_says(make: object) -> None:
    """In memory of the process, not in numbers of its own: every place is written."""
    model: Toy = make(CHAT)  # type: ignore[operator]
    decoder = LatentDecoder(model) if make is toy_teacher else KVDecoder(model)
    size = room(decoder, capacity=64, rows=10**6, cache_gb=0.2)
    before = resident()
    engine = Engine(decoder, CHAT, slots=2, capacity=64, blocks=size.blocks)
    with torch.inference_mode():
        decoder.cache.fill_(1.0)
    formula = decoder.cache_bytes_per_token * engine.pool.blocks * engine.pool.block_size
    assert abs(resident() - before - formula) <= 0.02 * formula
    assert 0.98 * 0.2e9 <= formula <= 0.2e9


def test_no_more_rows_than_asked_for_and_no_more_blocks_than_they_need() -> None:
    decoder = KVDecoder(toy_student(CHAT))
    size = room(decoder, capacity=40, rows=3, cache_gb=2)
    assert (size.slots, size.blocks) == (3, 3 * 3)


def test_scarce_memory_lets_twice_the_rows_run_that_fit_at_full_length() -> None:
    decoder = KVDecoder(toy_student(CHAT))
    block = decoder.cache_bytes_per_token * 16
    size = room(decoder, capacity=32, rows=100, cache_gb=10 * block / 1e9)
    assert (size.slots, size.blocks) == (10, 10)


def test_memory_for_less_than_one_row_is_refused() -> None:
    decoder = KVDecoder(toy_student(CHAT))
    block = decoder.cache_bytes_per_token * 16
    with pytest.raises(UserError, match=r"cache_gb .*: holds 32 tokens, expected room for one .*\(40 tokens"):
        room(decoder, capacity=40, rows=3, cache_gb=2.5 * block / 1e9)
