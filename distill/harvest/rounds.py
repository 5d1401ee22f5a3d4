"""Rounds: who gets samples next, decided from what is known of every problem.

A problem that has enough verified traces gets no more; one that has some gets about as many
as its pass rate says it needs; one that has none gets all its round offers. The last round
brings whoever is still short up to the full number. So exactly the problems are verified,
and verified often enough, that as many samples for everyone would have verified, and the
tokens go to the hard ones (rejection sampling by difficulty as in DART-Math, arXiv
2407.13690, whose samplers draw until k are right).
Decides only: sampling is draw.py's work, freezing round_file.py's. The same knowledge
gives the same decision, in whatever order it came.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from pydantic import ConfigDict, Field, PositiveInt

from distill.harvest.forcing import ForcingConfig
from distill.harvest.memory import Memory, MemoryConfig
from distill.harvest.roster import ONE, Roster
from distill.harvest.round_file import How, RoundFile, Wanted
from distill.harvest.standing import Drawn, Standings
from distill.harvest.verify import VerifyConfig, to_check
from distill.records import Record, unused


class RoundsConfig(Record):
    """Sample in rounds: stop where enough is verified, spend more on hard problems, give up with a reason."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    samples: tuple[PositiveInt, ...] = Field(min_length=1)
    """Most samples a problem gets in each round; the last round makes up for what earlier ones left."""
    until_verified: int | None = Field(default=None, gt=0)
    """Verified traces after which a problem gets no more samples; without it, all rounds are drawn."""
    temperatures: tuple[float, ...] = ()
    """Temperature of each round; without it, the table's."""
    teachers: tuple[str, ...] | None = Field(default=None, exclude_if=unused)
    """Which of several teachers is asked in each round; without it, samples are dealt to all of them in turn."""
    give_up_after: int | None = Field(default=None, gt=0)
    """Samples without a verified one after which a problem is given up."""
    budget_tokens: int | None = Field(default=None, gt=0)
    """Completion tokens a problem may cost; it is given up before a sample could go beyond."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Decides rounds. Stateless: all it knows it is told."""

    rounds: RoundsConfig
    max_tokens: int
    """Longest sample."""
    fingerprint: str
    forcing: ForcingConfig | None = None
    memory: MemoryConfig | None = None
    verify: VerifyConfig | None = None
    roster: Roster = ONE

    def decide(self, history: Sequence[RoundFile], now: Standings) -> RoundFile | None:
        """The next round; None when the last one closed the harvest."""
        if history and history[-1].how == "close":
            return None
        turn = _Turn(self, history, now)
        wanted = turn.continued()
        if wanted:
            return turn.decided("continue", wanted)
        step = sum(file.how == "sample" for file in history)
        if step < len(self.rounds.samples):
            wanted = turn.sampled(step)
            if wanted:
                temperatures = self.rounds.temperatures
                return turn.decided("sample", wanted, temperatures[step] if temperatures else None)
        if self.verify is not None and all(file.how != "check" for file in history):
            wanted = turn.checked(self.verify)
            if wanted:
                return turn.decided("check", wanted)
        turn.close()
        return turn.decided("close", [])


@dataclass(slots=True)
class _Turn:
    """One decision in the making."""

    policy: Policy
    history: Sequence[RoundFile]
    now: Standings
    fresh: dict[str, str] = field(default_factory=dict)
    """Problems given up in this decision, and why."""
    over: set[str] = field(init=False)
    """Problems given up before."""
    asked: dict[str, Counter[str]] = field(init=False)
    """Samples each problem was promised so far by teacher, whether or not they arrived."""

    def __post_init__(self) -> None:
        self.over = {problem_id for file in self.history for problem_id in file.given_up}
        self.asked = {}
        for file in self.history:
            for wanted in file.wanted if file.how == "sample" else ():
                self.asked.setdefault(wanted.problem_id, Counter())[wanted.teacher or ""] += wanted.n

    def decided(self, how: How, wanted: list[Wanted], temperature: float | None = None) -> RoundFile:
        return RoundFile(
            round=len(self.history),
            how=how,
            policy=self.policy.fingerprint,
            made_from=self.now.made_from(),
            temperature=temperature,
            wanted=tuple(wanted),
            given_up=self.fresh,
        )

    def sampled(self, step: int) -> list[Wanted]:
        """New samples for every problem that is neither settled nor given up."""
        memory = Memory(self.policy.memory, self.now) if self.policy.memory and step else None
        wanted = []
        for problem_id, problem in self.now.problems.items():
            if problem_id in self.over:
                continue
            verified = len(self.now.verified(problem_id))
            if self._settled(verified):
                continue
            asked = self.asked.get(problem_id, Counter())
            refused = self.now.refused.get(problem_id, {})
            n = self._number(problem_id, step, sum(asked[name] for name in asked.keys() - refused.keys()), verified)
            dealt = self._dealt(problem_id, step, n, asked)
            if dealt:
                shown = memory.recall(problem) if memory is not None and not verified else ()
                wanted += [
                    Wanted(
                        problem_id=problem_id, first=asked[name], n=count, teacher=name or None, examples=shown or None
                    )
                    for name, count in dealt.items()
                ]
        return wanted

    def _dealt(self, problem_id: str, step: int, n: int, asked: Counter[str]) -> dict[str, int]:
        """Who is asked for how many."""
        self._refused(problem_id)
        return self.policy.roster.deal(problem_id, step, n, asked, self.now.refused.get(problem_id, {}))

    def _refused(self, problem_id: str) -> None:
        """Give a problem up that all its teachers refuse."""
        refused = self.now.refused.get(problem_id, {})
        if refused and set(self.policy.roster.of(problem_id)) <= refused.keys():
            self.fresh.setdefault(problem_id, f"refused: {next(iter(refused.values()))}")

    def continued(self) -> list[Wanted]:
        """Truncated traces of problems that are not settled, each once."""
        forcing = self.policy.forcing
        if forcing is None:
            return []
        done = {wanted.parent for file in self.history for wanted in file.wanted}
        wanted = []
        for problem_id in self.now.problems:
            if problem_id in self.over or self._settled(len(self.now.verified(problem_id))):
                continue
            room = self._room(problem_id, forcing.max_tokens)
            open_ = [
                row
                for row in self.now.of(problem_id)
                if row.finish == "length"
                and row.status != "correct"  # cut behind its answer
                and row.how != "check"
                and row.links < forcing.times
                and row.trace_id not in done
            ]
            wanted += [_child(problem_id, row) for row in (open_ if room is None else open_[:room])]
        return wanted

    def checked(self, verify: VerifyConfig) -> list[Wanted]:
        """Answers shown once more to who gave them."""
        wanted = []
        for problem_id in self.now.problems:
            room = self._room(problem_id, self.policy.max_tokens)
            rows = to_check(self.now.of(problem_id), verify)
            wanted += [_child(problem_id, row) for row in (rows if room is None else rows[:room])]
        return wanted

    def close(self) -> None:
        """Say of every problem that has not what it should have that the rounds are over."""
        target = self.policy.rounds.until_verified
        for problem_id in self.now.problems:
            verified = len(self.now.verified(problem_id))
            if problem_id not in self.over and not self._settled(verified):
                self._refused(problem_id)
            if (
                target is not None
                and verified < target
                and problem_id not in self.over
                and problem_id not in self.fresh
            ):
                samples = self.asked.get(problem_id, Counter()).total()
                why = f"rounds over: {verified} of {target} verified in {samples} samples"
                self.fresh[problem_id] = self._dear(problem_id, verified) or why

    def _settled(self, verified: int) -> bool:
        target = self.policy.rounds.until_verified
        return target is not None and verified >= target

    def _number(self, problem_id: str, step: int, asked: int, verified: int) -> int:
        """How many samples more; 0 when the problem is given up, with the reason noted."""
        rounds = self.policy.rounds
        if rounds.give_up_after is not None and not verified and asked >= rounds.give_up_after:
            self.fresh[problem_id] = f"give_up_after: none verified in {asked} samples"
            return 0
        most = list(accumulate(rounds.samples))[step] - asked
        if step + 1 < len(rounds.samples):
            most = min(most, rounds.samples[step])
            if rounds.until_verified is not None and verified:
                # Laplace's rule of succession: no pass rate of a few samples is taken for 0 or 1.
                rate = (verified + 1) / (asked + 2)
                most = min(most, math.ceil((rounds.until_verified - verified) / rate))
        if rounds.give_up_after is not None and not verified:
            most = min(most, rounds.give_up_after - asked)
        room = self._room(problem_id, self.policy.max_tokens)
        dear = self._dear(problem_id, verified)
        if dear is not None:
            self.fresh[problem_id] = dear
        return most if room is None else min(most, room)

    def _dear(self, problem_id: str, verified: int) -> str | None:
        """Why a problem is given up whose budget holds no further sample."""
        if self._room(problem_id, self.policy.max_tokens) != 0:
            return None
        spent, budget = self.now.spent(problem_id), self.policy.rounds.budget_tokens
        return f"budget_tokens: {spent:,} of {budget:,} spent, {verified} verified"

    def _room(self, problem_id: str, tokens: int) -> int | None:
        """How many completions of that length the budget still holds at worst; None without a budget."""
        budget = self.policy.rounds.budget_tokens
        return None if budget is None else max(budget - self.now.spent(problem_id), 0) // tokens


def _child(problem_id: str, parent: Drawn) -> Wanted:
    return Wanted(
        problem_id=problem_id, first=parent.sample_index, teacher=parent.teacher or None, parent=parent.trace_id
    )
