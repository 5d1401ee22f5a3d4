"""Voting: maj@k, whether the answer most of k samples agree on is right (Wang et al. 2022, arXiv 2203.11171).

Answers are the same when the judge says so (`distill.judge.votes`); all correct ones are one party whatever their
words. A sample without an answer has no vote. Of parties with as many votes the one that spoke first wins, which
favors none, as samples come in no order. More than k samples are taken in blocks of k, so nothing is counted twice and
the value is unbiased; what is left over is not used. Programs have no vote.
"""

from collections.abc import Sequence

from distill.judge.votes import same_answer
from distill.records import Item


def can_vote(items: Sequence[Item]) -> bool:
    """Whether answers were kept that can be counted: not for programs, and not where nobody said anything."""
    return any(item.answer is not None for item in items) and not any(
        item.answer is None for item in items if item.status == "correct"
    )


def maj_at_k(samples: Sequence[Item], k: int) -> float:
    """Share of the blocks of k samples of one problem whose majority is right. ValueError for fewer than k samples."""
    if not 1 <= k <= len(samples):
        raise ValueError(f"maj@{k} needs at least {k} samples, got {len(samples)}")
    ordered = sorted(samples, key=lambda item: item.sample_index)
    blocks = [ordered[start : start + k] for start in range(0, len(ordered) - k + 1, k)]
    return sum(map(_won, blocks)) / len(blocks)


def _won(block: Sequence[Item]) -> bool:
    votes: dict[str, int] = {}
    right: str | None = None
    for item in block:
        if item.answer is None:
            continue
        if item.status == "correct":
            party = right = item.answer if right is None else right
        else:
            party = next((said for said in votes if said != right and same_answer(said, item.answer)), item.answer)
        votes[party] = votes.get(party, 0) + 1
    return bool(votes) and max(votes, key=lambda said: votes[said]) == right
