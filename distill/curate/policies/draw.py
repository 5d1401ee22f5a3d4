"""Draw: lots that depend on nothing but the seed, what is drawn for, and the trace itself.

So a draw is the same whatever order the rows come in, and two draws for different purposes
(sizes, policies) know nothing of one another.
"""

import hashlib
from fractions import Fraction

from distill.curate.row import Row


def lot(seed: int, purpose: str, trace_id: str) -> int:
    """64 bits, the same on every machine; the lowest are drawn first."""
    said = f"{seed}\0{purpose}\0{trace_id}".encode()
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big")


def length(row: Row) -> int:
    """Student tokens where a tokenizer was named, else the sampler's."""
    return row.completion_tokens if row.tokens is None else row.tokens


def in_shares(first: int, second: int, share: float) -> tuple[int, int]:
    """How many of two groups give the largest mix in which the first makes up `share`."""
    part = Fraction(share).limit_denominator(10_000)
    odds = part / (1 - part)
    return min(first, int(second * odds)), min(second, int(first / odds))


def spread(sizes: dict[tuple[str, ...], int], total: int) -> dict[tuple[str, ...], int]:
    """`total` over groups as evenly as their sizes allow; a rest goes to the first groups in order of name."""
    given = dict.fromkeys(sizes, 0)
    left = min(total, sum(sizes.values()))
    while left:
        room = sorted(name for name in sizes if given[name] < sizes[name])
        each = max(left // len(room), 1)
        for name in room[:left]:
            more = min(each, sizes[name] - given[name])
            given[name] += more
            left -= more
    return given
