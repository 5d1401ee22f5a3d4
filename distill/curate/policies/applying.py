"""Applying: policies as the last steps of curate, with what they refuse and relabel told in the history."""

from collections.abc import Sequence

from distill.curate.content.finding import Finding
from distill.curate.history import History
from distill.curate.policies.chain import Choice, choose
from distill.curate.policies.config import AnyPolicy, Majority
from distill.curate.policies.rules import Given
from distill.errors import shown


def apply(policies: Sequence[AnyPolicy], history: History, given: Given) -> Choice:
    """Drop what the policies refuse of what is alive, and flag what learns under a majority's label."""
    rows = history.alive(given.drawn)
    choice = choose(rows, policies, given)
    for index, (step, finding) in choice.refused.items():
        history.drop(rows[index], step, finding)
    majority = next((policy for policy in policies if isinstance(policy, Majority)), None)
    if majority is not None:
        for index in choice.taken:
            vote = choice.relabeled.get(rows[index].problem)
            if vote is not None:
                said = f"{vote.votes} of {vote.voters} samples say {shown(vote.answer)}, margin {vote.margin:.2f}"
                finding = Finding("relabeled", shown(vote.answer), majority.min_share, said)
                history.flag(rows[index], majority.policy, finding)
    return choice
