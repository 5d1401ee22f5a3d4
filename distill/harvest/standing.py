"""Standing: what a harvest in rounds knows of each problem, texts left out.

Counts are exact and free of order: traces are known by id, and everything decided from them
is decided from sorted rows. A problem without gold has verified traces when its samples
have a majority (`[harvest.majority]`): those that say what the majority says.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ConfigDict, Field

from distill.harvest.draw import Judged
from distill.harvest.round_file import How, MadeFrom
from distill.judge.votes import Vote, count_votes, voiced
from distill.records import Problem, Record, Status


class MajorityConfig(Record):
    """Vote among the samples of a problem without gold: what most of them say becomes its label."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    min_votes: int = Field(default=2, gt=0)
    """Fewest samples that must agree."""
    min_share: float = Field(default=0.5, gt=0.0, le=1.0)
    """Least share of the answering samples that must agree."""
    min_margin: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least lead over the runner-up, as a share of the answering samples; a tie never wins."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One judged trace, its text left out."""

    trace_id: str
    teacher: str
    """Whose it is, by its name among several."""
    round: int
    how: How
    sample_index: int
    parent: str | None
    shown: bool
    """Whether worked examples stood before the problem."""
    status: Status
    finish: str
    vote: str | None
    """What it says, of a problem without gold."""
    prompt_tokens: int
    tokens: int
    """Of the whole completion, a continued beginning included."""
    spent: int
    """Completion tokens sampled for it."""
    links: int
    """How many times its thought was continued."""


class Standings:
    """All traces of a harvest by problem."""

    def __init__(self, problems: Sequence[Problem], majority: MajorityConfig | None) -> None:
        self.problems = {problem.id: problem for problem in problems}
        self.majority = majority
        self.rows: dict[str, Drawn] = {}
        self.refused: dict[str, dict[str, str]] = {}
        """By problem: teachers whose server will not take it, and why."""
        self._ids: dict[str, list[str]] = defaultdict(list)

    def take(self, row: Judged, how: How) -> None:
        """Count a trace; one that is known already changes nothing."""
        trace, parent = row.trace, self.rows.get(row.trace.parent or "")
        assert row.verdict is not None, "rounds are decided from verdicts"
        if trace.id in self.rows:
            return
        continues = how == "continue" and parent is not None
        self.rows[trace.id] = Drawn(
            trace_id=trace.id,
            teacher=row.teacher,
            round=trace.round,
            how=how,
            sample_index=trace.sample_index,
            parent=trace.parent,
            shown=bool(trace.examples),
            status=row.verdict.status,
            finish=trace.finish,
            vote=voiced(row.problem.kind, trace.answer) if row.problem.kind == "open" else None,
            prompt_tokens=trace.prompt_tokens,
            tokens=trace.completion_tokens,
            spent=trace.completion_tokens - (parent.tokens if continues and parent else 0),
            links=parent.links + 1 if continues and parent else 0,
        )
        self._ids[row.problem.id].append(trace.id)

    def refuse(self, problem_id: str, teacher: str, why: str) -> None:
        """A teacher's server will not take this problem."""
        self.refused.setdefault(problem_id, {})[teacher] = why

    def of(self, problem_id: str) -> list[Drawn]:
        """Traces of a problem in the order they were asked for."""
        rows = (self.rows[trace_id] for trace_id in self._ids.get(problem_id, ()))
        return sorted(rows, key=lambda row: (row.round, row.sample_index, row.trace_id))

    def samples(self, problem_id: str) -> list[Drawn]:
        """Those that are samples in their own right, neither continued nor corrected."""
        return [row for row in self.of(problem_id) if row.how == "sample"]

    def verified(self, problem_id: str) -> list[Drawn]:
        """Correct traces, or the ones that say what a majority says."""
        rows = self.of(problem_id)
        vote = self.vote(problem_id)
        if vote is not None:
            return [row for row in rows if row.vote in vote.said]
        return [row for row in rows if row.status == "correct"]

    def vote(self, problem_id: str) -> Vote | None:
        """The majority of a problem without gold; None where there is none that counts."""
        if self.majority is None or self.problems[problem_id].kind != "open":
            return None
        votes = Counter(row.vote for row in self.of(problem_id) if row.vote is not None)
        counted = count_votes(votes) if votes else None
        return counted if counted is not None and counted.passes(self.majority) else None

    def spent(self, problem_id: str) -> int:
        """Completion tokens sampled for a problem."""
        return sum(row.spent for row in self.of(problem_id))

    def made_from(self) -> MadeFrom:
        """What a decision made now would be made from."""
        digest = hashlib.sha256()
        for trace_id in sorted(self.rows):
            digest.update(f"{trace_id} {self.rows[trace_id].status}\n".encode())
        correct = sum(row.status == "correct" for row in self.rows.values())
        return MadeFrom(traces=len(self.rows), correct=correct, sha256=digest.hexdigest())
