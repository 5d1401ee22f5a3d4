"""Majority: the answer most samples agree on becomes the label where gold cannot be it.

Used as NeMo-Skills uses it: where no sample of a problem matches gold, gold is more often
wrong than every sample. Votes (`distill.judge.votes`) are counted over every sample drawn,
duplicates too: that the teacher said it twice is the point.
Has no say on programs, or on problems of which a sample is correct.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from distill.curate.policies.config import Majority
from distill.curate.row import Row
from distill.judge.votes import Vote, count_votes


def relabel(drawn: Iterable[Row], policy: Majority) -> dict[int, Vote]:
    """Problems that get a new label, by index; `drawn` is every sample there is, kept or not."""
    answers: Mapping[int, Counter[str]] = defaultdict(Counter)
    settled: set[int] = set()
    for row in drawn:
        if row.status == "correct" or row.kind == "code":
            settled.add(row.problem)
        elif row.extracted is not None:
            answers[row.problem][row.extracted] += 1
    found = ((problem, count_votes(answers[problem])) for problem in sorted(answers.keys() - settled))
    return {problem: vote for problem, vote in found if vote.passes(policy)}
