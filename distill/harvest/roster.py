"""Roster: which of several teachers are asked about a problem, and who of them gets its next samples.

Teachers with a share divide the problems among them by a hash of the problem's id, whatever the seed; the
others are asked about all. What a round offers a problem is dealt in turn, to whoever was asked least
about it so far; or the round names the one that is asked: cheap ones first, say, and the dear one for
what they did not solve (a cascade as in FrugalGPT, arXiv 2305.05176, with our judge as its scorer).
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Roster:
    """Teachers by name, and the shares of those that have one. One unnamed teacher is a roster too."""

    names: tuple[str, ...] = ("",)
    shares: Mapping[str, float | None] | None = None
    by_round: Sequence[str] = ()
    """Who is asked in each round; empty where all are."""

    def of(self, problem_id: str) -> tuple[str, ...]:
        """Teachers of a problem, in the order of their tables."""
        shares = {name: share for name, share in (self.shares or {}).items() if share is not None}
        if not shares:
            return self.names
        lot, ends = _lot(problem_id), accumulate(shares.values())
        chosen = next((name for name, end in zip(shares, ends, strict=True) if lot < end), list(shares)[-1])
        return tuple(name for name in self.names if name not in shares or name == chosen)

    def deal(self, problem_id: str, step: int, n: int, asked: Counter[str], without: Collection[str]) -> dict[str, int]:
        """How many of a problem's next `n` samples each teacher is asked for; none of those in `without`."""
        names = [name for name in self._in_round(problem_id, step) if name not in without]
        dealt: Counter[str] = Counter()
        for _ in range(n if names else 0):
            dealt[min(names, key=lambda name: asked[name] + dealt[name])] += 1
        return {name: dealt[name] for name in names if dealt[name]}

    def _in_round(self, problem_id: str, step: int) -> tuple[str, ...]:
        return (self.by_round[step],) if self.by_round else self.of(problem_id)


ONE = Roster()
"""A teacher alone."""


def _lot(problem_id: str) -> float:
    """A number from 0 to 1 that stays with a problem."""
    digest = hashlib.sha256(f"share\n{problem_id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
