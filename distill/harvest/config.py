"""The table of a harvest: who is asked, what, how often and how."""

import re
from typing import Any, ClassVar

from pydantic import Field, model_validator

from distill.harvest.accounting import TURN
from distill.harvest.budget import BudgetConfig
from distill.harvest.forcing import ForcingConfig
from distill.harvest.lost import OnLost
from distill.harvest.memory import MemoryConfig
from distill.harvest.roster import Roster
from distill.harvest.rounds import RoundsConfig
from distill.harvest.speaking import HOW, KNOWN_TO, READ_BY, WHO, SpeakerConfig, TeacherTable
from distill.harvest.standing import MajorityConfig
from distill.harvest.verify import VerifyConfig
from distill.records import unused
from distill.selection import Selection

TABLES = ("rounds", "majority", "memory", "forcing", "verify")
"""Each of them makes a harvest go in rounds."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
"""Of a teacher."""
SHARES_ADD_UP = 1e-6


class HarvestConfig(SpeakerConfig):
    """Who is asked, what, how often and how."""

    inputs: ClassVar[tuple[str, ...]] = ("problems", "model", "models")
    limits: ClassVar[tuple[str, ...]] = ("budget", "on_lost")
    problems: str
    """Step or file with the problems."""
    select: Selection = Selection()
    """Which problems are asked."""
    teachers: dict[str, TeacherTable] | None = Field(default=None, min_length=1, exclude_if=unused)
    """Several at once, each under a name of its own; keys that say how to speak it has from here."""
    on_lost: OnLost = "stop"
    """When a teacher is gone and the others are through: stop, to ask it again, or finish with what is there."""
    samples: int = Field(default=1, gt=0)
    """Traces a problem."""
    defer_verdicts: bool = False
    """Only sample; the verdicts are drawn later from the stored traces."""

    rounds: RoundsConfig | None = Field(default=None, exclude_if=unused)
    """Adaptive rounds, instead of `samples` for every problem."""
    majority: MajorityConfig | None = Field(default=None, exclude_if=unused)
    """Labels for problems without gold, by vote."""
    memory: MemoryConfig | None = Field(default=None, exclude_if=unused)
    """Worked examples for hard problems."""
    forcing: ForcingConfig | None = Field(default=None, exclude_if=unused)
    """Truncated thoughts are continued."""
    verify: VerifyConfig | None = Field(default=None, exclude_if=unused)
    """Answers are checked by who gave them."""
    budget: BudgetConfig | None = Field(default=None, exclude_if=unused)
    """What it may cost; no part of what is sampled."""

    @model_validator(mode="before")
    @classmethod
    def _teachers_have_from_here(cls, table: Any) -> Any:
        """What a teacher's own table leaves out, as far as its sampler knows the word."""
        if not isinstance(table, dict) or not isinstance(table.get("teachers"), dict):
            return table
        given = {key: table[key] for key in HOW if key in table}
        teachers = {}
        for name, own in table["teachers"].items():
            sampler = own.get("sampler", "engine") if isinstance(own, dict) else None
            known = {key: value for key, value in given.items() if sampler in KNOWN_TO.get(key, (sampler,))}
            teachers[name] = {**known, **own} if isinstance(own, dict) else own
        return {**table, "teachers": teachers}

    @model_validator(mode="after")
    def _fields_fit_the_sampler(self) -> "HarvestConfig":
        if self.teachers is None:
            self.check_sampler()
            return self
        for key in WHO:
            if self.says(key):
                raise ValueError(f"{key}: there are teachers; say it in their tables")
        for name, teacher in self.teachers.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"teachers.{name[:60]}: not a name; letters, digits, . _ - and at most 40 of them")
            if self.rounds is not None and teacher.says("samples"):
                raise ValueError(f"teachers.{name}.samples: rounds.samples says how many; give one of the two")
        shares = [teacher.share for teacher in self.teachers.values() if teacher.share is not None]
        if shares and abs(sum(shares) - 1.0) > SHARES_ADD_UP:
            raise ValueError(f"teachers: their shares add up to {sum(shares):g}, expected 1")
        processes = [name for name, one in self.teachers.items() if max(one.tensor_parallel, one.expert_parallel) > 1]
        if len(processes) > 1:
            raise ValueError(f"teachers: {' and '.join(processes)} are split over processes; only one may be")
        return self

    @model_validator(mode="after")
    def _budget_has_room(self) -> "HarvestConfig":
        if self.budget is not None and self.budget.tokens is not None and self.budget.tokens < self.longest_sample:
            raise ValueError(
                f"budget.tokens: expected room for one sample (max_tokens {self.longest_sample}) or more, "
                f"got {self.budget.tokens}"
            )
        return self

    @model_validator(mode="after")
    def _rounds_make_sense(self) -> "HarvestConfig":
        for key, samplers in READ_BY.items():
            for one in self.speakers.values() if getattr(self, key) is not None else ():
                if one.sampler not in samplers:
                    known = ", ".join(samplers)
                    raise ValueError(f"{key}: sampler {one.sampler!r} does not read what it is shown; expected {known}")
        if self.in_rounds and self.defer_verdicts:
            raise ValueError("defer_verdicts: rounds are decided from verdicts; leave it out")
        if self.in_rounds and self.rounds is None and self.teachers is not None:
            found = next(key for key in TABLES if getattr(self, key) is not None)
            raise ValueError(f"{found}: with several teachers it needs rounds")
        if self.rounds is None:
            if self.memory is not None:
                raise ValueError("memory: needs rounds.samples of two rounds or more, to find what it shows")
            return self
        if "samples" in self.model_fields_set:
            raise ValueError("samples: rounds.samples says how many; give one of the two")
        if self.memory is not None and len(self.rounds.samples) < 2:
            raise ValueError("memory: needs rounds.samples of two rounds or more, to find what it shows")
        wanted, got = len(self.rounds.samples), len(self.rounds.temperatures)
        if got not in (0, wanted):
            raise ValueError(f"rounds.temperatures: expected one a round ({wanted}), got {got}")
        self._rounds_know_their_teachers(self.rounds)
        if self.rounds.budget_tokens is not None and self.rounds.budget_tokens < self.longest_sample:
            raise ValueError(
                f"rounds.budget_tokens: expected room for one sample (max_tokens {self.longest_sample}) or more, "
                f"got {self.rounds.budget_tokens}"
            )
        return self

    @property
    def in_rounds(self) -> bool:
        """Whether samples are decided on round by round."""
        return any(getattr(self, key) is not None for key in TABLES)

    @property
    def speakers(self) -> dict[str, SpeakerConfig]:
        """Who is asked, by name; the name is empty where there is one."""
        return {"": self} if self.teachers is None else dict(self.teachers)

    @property
    def models(self) -> tuple[str, ...]:
        """Checkpoints of several teachers, in the order of their tables."""
        return tuple(one.model for one in (self.teachers or {}).values() if one.model is not None)

    @property
    def roster(self) -> Roster:
        """Who of them is asked about which problem."""
        shares = {name: one.share for name, one in (self.teachers or {}).items()}
        by_round = self.rounds.teachers if self.rounds is not None else None
        return Roster(tuple(self.speakers), shares, by_round or ())

    @property
    def longest_sample(self) -> int:
        """Of whichever teacher may speak longest."""
        return max(one.max_tokens for one in self.speakers.values())

    def most_samples(self, name: str = "") -> int:
        """Samples of one problem that are asked of a teacher at once, at most."""
        if self.rounds is not None:
            return max(self.rounds.samples)
        return self.samples if self.teachers is None else self.teachers[name].samples

    def longest(self, name: str = "") -> int:
        """Tokens that examples, the longest answer of a teacher and a check of it may take beside a problem at most."""
        most = self.speakers[name].max_tokens
        thought, shown, check = most, 0, 0
        if self.forcing is not None:
            thought += self.forcing.times * (self.forcing.max_tokens + len(self.forcing.say.encode()))
        if self.memory is not None:
            shown = self.memory.max_tokens + TURN * self.memory.shown
        if self.verify is not None:  # a token is a byte or more
            check = len(self.verify.instruction.encode()) + 2 * TURN + most
        return shown + thought + check

    def _rounds_know_their_teachers(self, rounds: RoundsConfig) -> None:
        if not rounds.teachers:
            return
        known = ", ".join(self.teachers or ()) or "none"
        if len(rounds.teachers) != len(rounds.samples):
            raise ValueError(
                f"rounds.teachers: expected one a round ({len(rounds.samples)}), got {len(rounds.teachers)}"
            )
        for name in rounds.teachers:
            if name not in (self.teachers or {}):
                raise ValueError(f"rounds.teachers: no teacher {name!r}; there are {known}")
        idle = [name for name in self.teachers or () if name not in rounds.teachers]
        if idle:
            raise ValueError(f"rounds.teachers: no round asks {' and '.join(idle)}; name one or leave its table out")
        if any(one.share is not None for one in (self.teachers or {}).values()):
            raise ValueError("rounds.teachers: the teachers have shares; give one of the two")
