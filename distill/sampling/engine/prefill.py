"""Which pieces of which prompts run together in one call of the decoder.

Prompts of like length run side by side, so that little of a call is padding; a prompt longer
than a call's budget is cut into pieces.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from distill.sampling.engine.jobs import Fill

PREFILL_TOKENS = 8192
"""Padded tokens of one call: bounds its memory."""
PREFILL_PAIRS = 1 << 24
"""Pairs of a new and a cached token that one call's mask has room for (64 MB in float32), where a prompt continues."""
PREFILL_CACHED = 1 << 17
"""Cached tokens that one call of several prompts reads: a decoder copies them side by side, once for every row that
shares them. 200 MB for SmolLM2-135M in float32, 150 MB for DeepSeek-R1 in bfloat16; a longer prompt runs alone."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next `count` tokens of a prompt."""

    fill: Fill
    count: int

    @property
    def end(self) -> int:
        """Tokens in the cache when it has run."""
        return self.fill.done + self.count


def pieces(filling: Iterable[Fill], budget: int | None, block_size: int) -> list[Piece]:
    """What runs now, the oldest prompts first: `budget` tokens, or without one a piece of every prompt."""
    found = []
    for fill in sorted(filling, key=lambda fill: fill.age):
        count = len(fill.tokens) - fill.done
        if fill.done:
            count = min(count, max(block_size, PREFILL_PAIRS // len(fill.tokens)))
        count = min(count, PREFILL_TOKENS if budget is None else min(budget, PREFILL_TOKENS))
        if count:
            found.append(Piece(fill, count))
        if budget is not None:
            budget -= count
    return found


def calls(wanted: list[Piece]) -> Iterator[list[Piece]]:
    """Pieces that run together; those that begin a prompt apart from those that continue one."""
    fresh = sorted((piece for piece in wanted if not piece.fill.done), key=lambda piece: piece.count)
    later = sorted((piece for piece in wanted if piece.fill.done), key=lambda piece: (piece.count, piece.end))
    yield from _batches(fresh)
    yield from _batches(later)


def _batches(ordered: list[Piece]) -> Iterator[list[Piece]]:
    """Cut a list sorted by length where padding would exceed a quarter, or the call its budget."""
    batch: list[Piece] = []
    tokens = longest = 0
    for piece in ordered:
        padded = piece.count * (len(batch) + 1)
        longest = max(longest, piece.end)
        cached = longest * (len(batch) + 1) if piece.fill.done else 0
        heavy = padded > PREFILL_TOKENS or cached > PREFILL_CACHED or piece.count * cached > PREFILL_PAIRS
        if batch and (heavy or padded > 1.25 * (tokens + piece.count) + 64):
            yield batch
            batch, tokens, longest = [], 0, piece.end
        batch.append(piece)
        tokens += piece.count
    if batch:
        yield batch
