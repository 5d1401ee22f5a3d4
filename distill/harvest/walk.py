"""Walk: a harvest in rounds, each frozen before it begins, the next decided when it is judged.

A resume reads the frozen rounds and repeats them: what is stored is not asked for again.
Sample k of a problem is the same draw in whatever round it comes: rounds that change nothing
else ask for the first samples that one long round would have asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from distill.errors import UserError
from distill.harvest.accounting import Account
from distill.harvest.config import HarvestConfig
from distill.harvest.draw import TRACES, Judge, Judged, draw_and_judge
from distill.harvest.forcing import whole
from distill.harvest.job import Speaker, Want, problem_seed
from distill.harvest.lost import Lost
from distill.harvest.memory import said, worked
from distill.harvest.refusals import Refusals
from distill.harvest.roster import Roster
from distill.harvest.round_file import RoundFile, Wanted, read_rounds, write_round
from distill.harvest.rounds import Policy, RoundsConfig
from distill.harvest.standing import Standings
from distill.ledger import read_ledger
from distill.progress import Progress, Watch
from distill.records import Message, Params, Problem, Trace, fingerprint
from distill.selection import Ask, asking


@dataclass(slots=True)
class Walk:
    """One harvest, round after round."""

    problems: Sequence[Problem]
    out: Path
    config: HarvestConfig
    speakers: Mapping[str, Speaker]
    roster: Roster
    judge: Judge
    progress: Progress
    refusals: Refusals
    lost: Lost
    account: Account
    watch: Watch
    history: list[RoundFile] = field(default_factory=list)
    now: Standings = field(init=False)

    def __post_init__(self) -> None:
        self.now = Standings(self.problems, self.config.majority)

    def rows(self) -> Iterator[Judged]:
        """Every trace once it and its verdict are stored; those of earlier attempts first in their round."""
        policy = _policy(self)
        self.history = []
        frozen = list(read_rounds(self.out, policy.fingerprint))
        while True:
            if len(self.history) < len(frozen):
                file = frozen[len(self.history)]
            else:
                decided = policy.decide(self.history, self.now)
                if decided is None:
                    return
                file = decided
                write_round(self.out, file)
            yield from self._round(file)
            self.history.append(file)
            if self.account.spent_out is not None:
                return

    @property
    def expected(self) -> int:
        """Samples all rounds so far wanted."""
        return sum(wanted.n for file in self.history for wanted in file.wanted)

    def spent(self, trace: Trace) -> int:
        """Completion tokens sampled for a trace; what it continues was paid for before."""
        return self.now.rows[trace.id].spent

    def _round(self, file: RoundFile) -> Iterator[Judged]:
        wants = self._wants(file)
        rows = draw_and_judge(
            wants,
            self.out,
            judge=self.judge,
            progress=self.progress,
            round=file.round,
            label=f"harvest round {file.round} ({file.how})",
            account=self.account,
            watch=self.watch,
            refusals=self.refusals,
            lost=self.lost,
        )
        for row in rows if wants else ():
            self.now.take(row, file.how)
            yield row
        for refusal in self.refusals.rows.values():
            if refusal.round == file.round and file.how == "sample":
                self.now.refuse(refusal.problem_id, refusal.teacher or "", refusal.why)

    def _wants(self, file: RoundFile) -> list[Want]:
        texts = _Texts(self.out, file.wanted)
        wants = []
        for wanted in file.wanted:
            problem = self.now.problems[wanted.problem_id]
            speaker, how = self.speakers[wanted.teacher or ""], self.config.speakers[wanted.teacher or ""]
            params, ask = how.params, asking(how.instruction)
            if file.temperature is not None:
                params = params.model_copy(update={"temperature": file.temperature})
            if wanted.parent is None:
                seed = problem_seed(speaker.seed, problem.id)
                shown = partial(_shown, ask=ask, examples=texts.examples(wanted.examples, self.now.problems))
                wants.append(
                    Want(speaker, problem, shown, params, seed, wanted.first, wanted.n, examples=wanted.examples)
                )
                continue
            parent = texts.traces[wanted.parent]
            seed = problem_seed(speaker.seed, parent.id, file.round)
            shown = partial(_shown, ask=ask, examples=texts.examples(parent.examples, self.now.problems))
            if file.how == "check":
                wants.append(self._checked(speaker, problem, shown, params, seed, wanted, parent))
            else:
                wants.append(self._continued(speaker, problem, shown, seed, wanted, parent))
        return wants

    def _checked(
        self, speaker: Speaker, problem: Problem, shown: Ask, params: Params, seed: int, wanted: Wanted, parent: Trace
    ) -> Want:
        assert self.config.verify is not None, "a check was decided"
        turns = (
            Message(role="assistant", content=said(parent)),
            Message(role="user", content=self.config.verify.instruction),
        )
        ask = partial(_followed, shown=shown, turns=turns)
        return Want(speaker, problem, ask, params, seed, wanted.first, wanted.n, parent, examples=parent.examples)

    def _continued(
        self, speaker: Speaker, problem: Problem, shown: Ask, seed: int, wanted: Wanted, parent: Trace
    ) -> Want:
        forcing = self.config.forcing
        assert forcing is not None, "a continuation was decided"
        assert parent.params is not None, "it was sampled here"
        params = parent.params.model_copy(update={"max_tokens": forcing.max_tokens})
        turn = Message(role="assistant", content=parent.text + forcing.say)
        return Want(
            speaker,
            problem,
            partial(_followed, shown=shown, turns=(turn,)),
            params,
            seed,
            wanted.first,
            wanted.n,
            parent,
            whole=partial(whole, parent, forcing.say),
            think_open=parent.think_open,
            examples=parent.examples,
        )


def _policy(walk: Walk) -> Policy:
    config = walk.config
    tables = {key: getattr(config, key) for key in ("rounds", "majority", "memory", "forcing", "verify")}
    asked = [
        (name, [one.sampler.identity, one.template, how.params, how.instruction, config.samples, one.seed])
        for (name, one), how in zip(walk.speakers.items(), config.speakers.values(), strict=True)
    ]
    ids = [problem.id for problem in walk.problems]
    shares = [walk.roster.shares] if config.teachers is not None else []
    told = [*asked[0][1], tables, ids] if config.teachers is None else [asked, *shares, tables, ids]
    return Policy(
        config.rounds or RoundsConfig(samples=(config.samples,)),
        config.longest_sample,
        fingerprint(told),
        forcing=config.forcing,
        memory=config.memory,
        verify=config.verify,
        roster=walk.roster,
    )


class _Texts:
    """Traces a round shows or goes on from, and the examples those were shown."""

    def __init__(self, out: Path, wanted: Sequence[Wanted]) -> None:
        self.traces: dict[str, Trace] = {}
        needed = {row.parent for row in wanted if row.parent} | {id_ for row in wanted for id_ in row.examples or ()}
        while needed:
            found = {trace.id: trace for trace in read_ledger(out / TRACES, Trace) if trace.id in needed}
            if len(found) < len(needed):
                lost = min(needed - found.keys())
                raise UserError(f"{out / TRACES}: no trace {lost}, which a round file names; was it removed?")
            self.traces |= found
            needed = {id_ for trace in found.values() for id_ in trace.examples or ()} - self.traces.keys()

    def examples(self, ids: Sequence[str] | None, problems: dict[str, Problem]) -> tuple[tuple[Problem, Trace], ...]:
        """Examples with their problems, in the order shown."""
        traces = [self.traces[id_] for id_ in ids or ()]
        return tuple((problems[trace.problem_id], trace) for trace in traces)


def _shown(problem: Problem, *, ask: Ask, examples: Sequence[tuple[Problem, Trace]]) -> tuple[Message, ...]:
    """A problem with worked examples before it."""
    turns = [turn for known, trace in examples for message in ask(known) for turn in worked(message, trace)]
    return (*turns, *ask(problem))


def _followed(problem: Problem, *, shown: Ask, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    return (*shown(problem), *turns)
