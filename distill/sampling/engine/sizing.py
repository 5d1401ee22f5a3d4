"""How many rows and blocks a memory budget holds."""

from dataclasses import dataclass

from distill.errors import UserError
from distill.sampling.engine.engine import BLOCK_SIZE
from distill.sampling.protocols import Decoder

OVERCOMMIT = 2
"""Rows let run for every row that would fit at its full length: few rows reach theirs, and samples share prompts.
When more do than fit, the youngest give way."""


@dataclass(frozen=True, slots=True)
class Room:
    """What to give `Engine`."""

    slots: int
    blocks: int


def room(decoder: Decoder, *, capacity: int, rows: int, cache_gb: float) -> Room:
    """At most `rows` rows of `capacity` tokens within `cache_gb`. UserError when not one fits."""
    block_bytes = decoder.cache_bytes_per_token * BLOCK_SIZE
    per_row = -(-capacity // BLOCK_SIZE)
    affordable = int(cache_gb * 1e9) // block_bytes
    if affordable < per_row:
        raise UserError(
            f"cache_gb {cache_gb:g}: holds {affordable * BLOCK_SIZE:,} tokens, expected room for one prompt with "
            f"its completion ({capacity:,} tokens, {per_row * block_bytes / 1e9:.3g} GB)"
        )
    blocks = min(rows * per_row, affordable)
    return Room(min(rows, OVERCOMMIT * blocks // per_row), blocks)
