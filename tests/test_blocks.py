"""Who holds which block, and what stays findable for how long."""

import random

import pytest

from distill.sampling.engine.blocks import BlockPool


def pool_with(tokens: list[int], blocks: int = 8) -> tuple[BlockPool, list[int]]:
    """A pool of blocks of 4 in which these tokens are published and held."""
    pool = BlockPool(blocks, 4)
    held = pool.take(pool.needed(len(tokens)))
    pool.publish(tokens, held)
    return pool, held


def test_only_full_blocks_are_found_and_only_behind_the_same_beginning() -> None:
    pool, held = pool_with(list(range(10)))
    assert pool.find(list(range(12))).blocks == held[:2]
    assert pool.find(list(range(7))).blocks == held[:1]
    assert pool.find([9, *range(1, 8)]).blocks == []
    assert pool.find([4, 5, 6, 7]).blocks == [], "the same tokens behind another beginning are another block"


def test_released_blocks_stay_findable_until_their_memory_is_needed() -> None:
    pool, held = pool_with(list(range(8)))
    pool.release(held)
    assert pool.free == 8
    pool.take(6)
    assert pool.find(list(range(8))).blocks == held
    pool.take(1)
    assert pool.find(list(range(8))).blocks == held[:1], "the end of a chain goes before its beginning"


def test_what_was_used_last_is_evicted_last() -> None:
    pool, old = pool_with([1, 2, 3, 4], blocks=2)
    new = pool.take(1)
    pool.publish([5, 6, 7, 8], new)
    pool.release(old)
    pool.release(new)
    pool.share(old)
    pool.release(old)
    pool.take(1)
    assert pool.find([1, 2, 3, 4]).blocks == old
    assert pool.find([5, 6, 7, 8]).blocks == []


def test_a_shared_block_is_free_only_when_everyone_let_go() -> None:
    pool, held = pool_with([1, 2, 3, 4])
    pool.share(held)
    pool.release(held)
    assert pool.held == 1
    pool.release(held)
    assert pool.held == 0
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(held)


def test_the_rest_of_a_chain_is_not_found_behind_a_beginning_that_was_evicted_and_came_again() -> None:
    pool, held = pool_with(list(range(8)), blocks=3)
    pool.release(held[:1])
    taken = pool.take(2)  # the beginning goes, its continuation is still held
    pool.publish([0, 1, 2, 3], taken)
    assert pool.find(list(range(8))).blocks == taken[:1]


def test_nothing_is_findable_after_forgetting() -> None:
    pool, held = pool_with(list(range(8)))
    pool.release(held)
    pool.forget()
    assert pool.find(list(range(8))).blocks == []
    assert sorted(pool.take(8)) == list(range(8))


def test_random_use_never_loses_or_doubles_a_block_and_never_finds_wrong_tokens() -> None:
    rng = random.Random(0)
    pool, holders, content = BlockPool(12, 2), list[tuple[list[int], list[int]]](), dict[int, tuple[int, ...]]()
    for _ in range(3000):
        if holders and (rng.random() < 0.5 or pool.free < 4):
            tokens, blocks = holders.pop(rng.randrange(len(holders)))
            pool.release(blocks)
        else:
            tokens = [rng.randrange(2) for _ in range(rng.randrange(1, 8))]
            known = pool.find(tokens).blocks
            assert all(content[block] == tuple(tokens[: 2 * (k + 1)]) for k, block in enumerate(known))
            pool.share(known)
            blocks = known + pool.take(pool.needed(len(tokens)) - len(known))
            content.update((block, tuple(tokens[: 2 * (k + 1)])) for k, block in enumerate(blocks))
            pool.publish(tokens, blocks)
            holders.append((tokens, blocks))
        assert pool.held == len({block for _, blocks in holders for block in blocks})
