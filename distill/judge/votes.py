"""Votes: which answer most samples of a problem agree on (self-consistency, Wang et al. 2022, arXiv 2203.11171).

Answers are the same when the judge's exact comparison says so; a pair only computer algebra
could decide counts as two answers, so votes may split but never merge by mistake.
Has no say on programs.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from distill.judge.equivalence import compare, gold_answer
from distill.judge.extraction import BOX, extract, final_part
from distill.judge.notation import normalize


class Bar(Protocol):
    """What a majority must have to count."""

    @property
    def min_votes(self) -> int:
        """Fewest samples that must agree."""

    @property
    def min_share(self) -> float:
        """Least share of the answering samples that must agree."""

    @property
    def min_margin(self) -> float:
        """Least lead over the runner-up, as a share of the answering samples; a tie never wins."""


@dataclass(frozen=True, slots=True)
class Vote:
    """The answer most samples gave."""

    answer: str
    """In the words said most."""
    votes: int
    runner_up: int
    """Votes of the next answer."""
    voters: int
    """Samples with an answer."""
    said: frozenset[str]
    """Every way of saying it."""

    @property
    def margin(self) -> float:
        """Lead over the runner-up, as a share of the samples with an answer."""
        return (self.votes - self.runner_up) / self.voters

    def passes(self, bar: Bar) -> bool:
        """Whether it is a majority to learn from."""
        enough = self.votes >= bar.min_votes and self.votes / self.voters >= bar.min_share
        return enough and self.votes > self.runner_up and self.margin >= bar.min_margin


def count_votes(answers: Counter[str]) -> Vote:
    """The outcome of at least one answer; of parties with as many votes, the one whose wording sorts first."""
    parties = sorted(_parties(answers), key=lambda party: -party[0])
    (votes, said), runner_up = parties[0], parties[1][0] if len(parties) > 1 else 0
    return Vote(said[0], votes, runner_up, answers.total(), frozenset(said))


def _parties(answers: Counter[str]) -> Iterable[tuple[int, list[str]]]:
    """Votes of each group of equal answers, and its wordings, the most frequent first."""
    parties: list[list[str]] = []
    for text in sorted(answers, key=lambda text: (-answers[text], text)):
        mine = next((party for party in parties if same_answer(party[0], text)), None)
        if mine is None:
            parties.append([text])
        else:
            mine.append(text)
    return [(sum(answers[text] for text in party), party) for party in parties]


def same_answer(a: str, b: str) -> bool:
    """Whether the judge, taking the first for gold, calls the second correct without computer algebra."""
    ruling = compare(gold_answer(normalize(a)), normalize(b))
    return ruling is not None and ruling.status == "correct"


def voiced(kind: str, answer: str | None) -> str | None:
    """The vote of a trace that no gold answer told the judge where to find; None when it has none.

    An open problem's text counts only where it boxes an answer.
    """
    said = final_part(answer or "")
    if not said or kind == "code" or (kind == "open" and not BOX.search(said)):
        return None
    found = extract(said, gold_answer(""))
    return found.text if found else None
