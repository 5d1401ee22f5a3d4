"""Majority: the answer most samples agree on becomes the label where gold cannot be it.

Self-consistency (Wang et al. 2022, arXiv 2203.11171), used as NeMo-Skills uses it: where no
sample of a problem matches gold, gold is more often wrong than every sample. Answers are the
same when the judge's exact comparison says so; a pair only computer algebra could decide
counts as two answers, so votes may split but never merge by mistake. Votes are counted over
every sample drawn, duplicates too: that the teacher said it twice is the point.
Has no say on programs, or on problems of which a sample is correct.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distill.curate.policies.config import Majority
from distill.curate.row import Row
from distill.judge.equivalence import compare, gold_answer
from distill.judge.extraction import BOX, extract, final_part
from distill.judge.notation import normalize


@dataclass(frozen=True, slots=True)
class Relabel:
    """A label the samples agreed on."""

    problem: int
    """Index into the problems of the step."""
    answer: str
    """The new gold, in the words said most."""
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


def relabel(drawn: Iterable[Row], policy: Majority) -> dict[int, Relabel]:
    """Problems that get a new label, by index; `drawn` is every sample there is, kept or not."""
    answers: Mapping[int, Counter[str]] = defaultdict(Counter)
    settled: set[int] = set()
    for row in drawn:
        if row.status == "correct" or row.kind == "code":
            settled.add(row.problem)
        elif row.extracted is not None:
            answers[row.problem][row.extracted] += 1
    found = (_vote(problem, answers[problem], policy) for problem in sorted(answers.keys() - settled))
    return {vote.problem: vote for vote in found if vote is not None}


def _vote(problem: int, answers: Counter[str], policy: Majority) -> Relabel | None:
    parties = sorted(_parties(answers), key=lambda party: -party[0])
    (votes, said), runner_up = parties[0], parties[1][0] if len(parties) > 1 else 0
    made = Relabel(problem, said[0], votes, runner_up, answers.total(), frozenset(said))
    enough = votes >= policy.min_votes and votes / made.voters >= policy.min_share
    return made if enough and votes > runner_up and made.margin >= policy.min_margin else None


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
