"""Bench: examine checkpoints on the same held-out problems and say how sure the result is.

Scores carry 95% intervals over problems, pairs of checkpoints are compared problem by
problem, and the items both are made of are kept (Miller 2024, "Adding error bars to evals").
Does not sample twice what is stored, and does not score what is missing: an interrupted
bench resumes, an incomplete one is refused.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from distill.errors import UserError, did_you_mean
from distill.harvest.accounting import Account
from distill.harvest.budget import BudgetConfig
from distill.harvest.draw import TRACES, Judge
from distill.jsonl import write_jsonl
from distill.ledger import read_ledger
from distill.progress import Progress
from distill.records import Params, Problem, Record, Score, Trace, unused
from distill.runs import Report
from distill.sampling.endpoint import EndpointConfig
from distill.sampling.protocols import Sampler
from distill.sampling.replay import ReplayConfig
from distill.sampling.table import ENGINE_KEYS, EngineConfig
from distill.selection import HeldOut, Instruction, asking, read_problems, select
from evals.contamination import contamination
from evals.examination import Asking, Examined, examine, recorded
from evals.protocols import NAMES, R1, asks, greedy_by_itself, protocol_for
from evals.scoring import ALL, PASS_1, Drop, Paired, bad_gold, drops, group, pair, score, table

SCORES, ITEMS, PAIRED, DISAGREEMENTS = "scores.jsonl", "items.jsonl", "paired.jsonl", "disagreements.jsonl"
DROPS = "drops.jsonl"
"""Only where variants were asked beside their originals."""
READ, RECORDED = "read.jsonl", "recorded"
SAMPLING = (
    "protocol",
    "samples",
    "temperature",
    "top_p",
    "max_tokens",
    "instruction",
    "samplers",
    "budget",
    *ENGINE_KEYS,
)
"""Keys that mean nothing for recorded traces."""
OWN = ("temperature", "top_p", "max_tokens")
"""Keys a protocol has a value of its own for."""
FEWEST_OF_R1 = 4
"""Samples a problem that DeepSeek's reports take at least."""


class SamplerTable(Record):
    """One that is examined and is no checkpoint folder. Exactly one of the keys is given."""

    endpoint: EndpointConfig | None = None
    """A server, or a GGUF file served on loopback (`serve`)."""
    replay: ReplayConfig | None = None
    """Recorded answers."""
    error_rate: float | None = Field(default=None, ge=0.0, le=1.0)
    """The oracle of the procedural families, with this share of mistakes."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "SamplerTable":
        given = [key for key in type(self).model_fields if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"endpoint, replay and error_rate: give exactly one, got {', '.join(given) or 'none'}")
        return self


class BenchConfig(EngineConfig):
    """Who is examined, on what, how, and which pairs are compared."""

    inputs: ClassVar[tuple[str, ...]] = ("checkpoints", "problems", "traces")
    limits: ClassVar[tuple[str, ...]] = ("budget",)
    checkpoints: tuple[str, ...] = ()
    """Steps that made the checkpoints; their names name the scores."""
    problems: str
    """Step or file with the problems."""
    traces: tuple[str, ...] = ()
    """Harvest steps to score as they stand, instead of `checkpoints`; each sampler is one checkpoint."""
    select: HeldOut = HeldOut()
    """Which problems are asked."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs [a, b]; the report gives a - b over the problems both were asked."""
    k: tuple[int, ...] = Field(default=(1,), min_length=1)
    """pass@k for each of these."""
    maj: tuple[int, ...] = ()
    """maj@k for each of these: whether the answer most of k samples agree on is right."""
    samplers: dict[str, SamplerTable] = Field(default_factory=dict)
    """Servers, GGUF files, recordings and oracles that are examined beside `checkpoints`, by a name of their own."""
    protocol: str | None = None
    """A published way of asking: r1, zero-shot-chat, lm-eval or lm-eval:TASK; sets what the next keys leave open."""
    instruction: Instruction | None = None
    """What the user turn says after the problem; step-by-step asks for a boxed answer. A protocol has its own words."""
    samples: int = Field(default=1, gt=0)
    """Samples a problem."""
    temperature: float | None = Field(default=None, ge=0.0)
    """0 is greedy, and what it is without a protocol."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    """Sample from the likeliest tokens that hold this share of the probability; 1 without a protocol."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest completion in the checkpoint's tokens; needed where a model is asked without a protocol."""
    budget: BudgetConfig | None = Field(default=None, exclude_if=unused)
    """What it may cost; a bench that spends it goes on when run again with more."""

    @model_validator(mode="after")
    def _says_who_and_how(self) -> "BenchConfig":
        asked = bool(self.checkpoints or self.samplers)
        if asked == bool(self.traces):
            raise ValueError("checkpoints and traces: give one of the two (samplers count as checkpoints)")
        if self.traces and (useless := [key for key in SAMPLING if key in self.model_fields_set]):
            raise ValueError(f"{useless[0]}: means nothing for traces, they were sampled already")
        if asked and self.protocol is None and self.max_tokens is None:
            raise ValueError("max_tokens: missing (checkpoints are sampled)")
        if min(self.k) < 1 or (asked and max(self.k) > self.samples):
            raise ValueError(f"k: each must be from 1 to samples ({self.samples}), got {list(self.k)}")
        if self.maj and (min(self.maj) < 1 or (asked and max(self.maj) > self.samples)):
            raise ValueError(f"maj: each must be from 1 to samples ({self.samples}), got {list(self.maj)}")
        if self.budget is not None and self.budget.on_spent != "stop":
            raise ValueError("budget.on_spent: a bench scores all of its exam or nothing; leave it out")
        return self

    @model_validator(mode="after")
    def _protocol_is_known(self) -> "BenchConfig":
        if self.protocol is not None:
            if self.protocol not in NAMES:
                hint = did_you_mean(self.protocol, NAMES)
                raise ValueError(f"protocol: unknown {self.protocol!r}{hint}; there are {', '.join(NAMES)}")
            if self.instruction is not None:
                raise ValueError(f"instruction: protocol {self.protocol!r} has words of its own; leave it out")
            if any(table.replay is not None for table in self.samplers.values()):
                raise ValueError("protocol: a recording was asked in its own way; leave it out")
        greedy = self.temperature == 0 if self.temperature is not None else greedy_by_itself(self.protocol)
        if self.samples > 1 and greedy:
            raise ValueError("samples: more than one needs a temperature above 0, greedy samples are all the same")
        return self

    def asking(self, problems: Sequence[Problem], data: Path, seed: int) -> Asking:
        """How these problems are put to whoever is examined.

        Raises UserError when the protocol is not for them, or its worked examples are not in the data directory.
        """
        own = {key: getattr(self, key) for key in OWN if getattr(self, key) is not None}
        if self.protocol is None:
            params = Params(**{"temperature": 0.0, "top_p": 1.0, **own})
            name = "greedy" if params.temperature == 0 else "sampled"
            words = self.instruction or "none"
            return Asking(name, params, self.samples, asking(words), seed, instruction=words)
        protocol = protocol_for(self.protocol, (problem.source for problem in problems))
        changed = {key: value for key, value in own.items() if value != getattr(protocol, key)}
        return Asking(
            protocol.name,
            protocol.params.model_copy(update=changed),
            self.samples,
            asks(protocol, data),
            seed,
            protocol=protocol,
            changed=changed,
        )


def bench(
    checkpoints: Mapping[str, Path],
    problems: Path,
    out: Path,
    config: BenchConfig,
    *,
    traces: Sequence[Path] = (),
    sampler_for: Callable[[Path], Sampler],
    others: Mapping[str, Callable[[], AbstractContextManager[Sampler]]] | None = None,
    data: Path = Path(),
    judge: Judge,
    seed: int,
    progress: Progress,
) -> Report:
    """Examine `checkpoints` and `others`, or score the harvest folders `traces`, into `out`.

    `others` are opened one after the other. `data` holds the worked examples of protocols. The traces and verdicts of
    each stand in `out/<name>/`; recorded ones stay where they are.
    """
    everything = read_problems(problems)
    asked = select(everything, config.select, problems)
    if traces:
        known = {problem.id for problem in everything}
        examined = recorded(traces, asked, known, RECORDED)
        _check_pairs(config, examined)
    else:
        examined = _examine_all(checkpoints, others or {}, asked, out, config, sampler_for, data, judge, seed, progress)
    sources = {problem.source for problem in asked}
    marks = {name: contamination(folder, sources) for name, folder in checkpoints.items()}
    return _write(examined, marks, len(asked), out, config)


def _examine_all(
    checkpoints: Mapping[str, Path],
    others: Mapping[str, Callable[[], AbstractContextManager[Sampler]]],
    asked: Sequence[Problem],
    out: Path,
    config: BenchConfig,
    sampler_for: Callable[[Path], Sampler],
    data: Path,
    judge: Judge,
    seed: int,
    progress: Progress,
) -> dict[str, Examined]:
    if twice := sorted(checkpoints.keys() & others.keys()):
        raise UserError(f"samplers: {twice[0]!r} is a checkpoint's name too")
    opens = {name: partial(_opened, sampler_for, folder) for name, folder in checkpoints.items()} | dict(others)
    _check_pairs(config, opens)
    how = config.asking(asked, data, seed)
    with ExitStack() as stack:
        account = None
        if config.budget is not None:
            account = stack.enter_context(Account(out, config.budget, tuple(opens)))
            ledgers = [out / name / TRACES for name in opens if (out / name / TRACES).is_dir()]
            for _ in account.count(trace for ledger in ledgers for trace in read_ledger(ledger, Trace)):
                pass  # what earlier attempts spent on all of them
        examined = {}
        for name, opened in opens.items():
            with opened() as sampler:
                recorded = name in config.samplers and config.samplers[name].replay is not None
                said = replace(how, name=RECORDED, instruction=None) if recorded else how
                examined[name] = examine(
                    name, asked, out / name, said, sampler=sampler, judge=judge, progress=progress, account=account
                )
    return examined


@contextmanager
def _opened(sampler_for: Callable[[Path], Sampler], folder: Path) -> Iterator[Sampler]:
    yield sampler_for(folder)


def checkpoint_names(folders: Iterable[Path]) -> dict[str, Path]:
    """Folder names as checkpoint names. Raises UserError when two are the same."""
    named: dict[str, Path] = {}
    for folder in folders:
        if folder.name in named:
            raise UserError(f"checkpoints: {named[folder.name]} and {folder} have the same name {folder.name!r}")
        named[folder.name] = folder
    return named


def _write(
    examined: Mapping[str, Examined], marks: Mapping[str, str], asked: int, out: Path, config: BenchConfig
) -> Report:
    """`marks`: contamination of each checkpoint; recorded samplers have none."""
    scores: list[Score] = []
    groups = {}
    notes: dict[str, list[str]] = {}
    bad = bad_gold(item for found in examined.values() for item in found.items)
    for name, found in examined.items():
        items = [item for item in found.items if item.problem_id not in bad]
        if not items:
            raise UserError(f"{name}: none of its {asked} problems can be judged (gold_bad)")
        groups[name] = group(items)
        ks, mark = sorted({1, *config.k}), marks.get(name)
        how = found.fingerprint, found.protocol
        scores += score(groups[name], name, *how, ks, maj=sorted(set(config.maj)), contamination=mark)
        if mark is not None:
            notes.setdefault(f"training set and exam: {mark}", []).append(name)
        scores += _further(name, found, bad, mark)
        for note in _notes(found, len(bad), asked):
            notes.setdefault(note, []).append(name)
    paired = [row for a, b in config.compare for row in pair(a, b, groups)]
    dropped = [row for name, grouped in groups.items() for row in drops(name, grouped)]
    disagreements = [row for found in examined.values() for row in found.disagreements]
    write_jsonl(out / ITEMS, (item for found in examined.values() for item in found.items))
    write_jsonl(out / SCORES, scores)
    write_jsonl(out / PAIRED, paired)
    if dropped:
        write_jsonl(out / DROPS, dropped)
    if read := [row for found in examined.values() for row in found.read]:
        write_jsonl(out / READ, read)
    everyone = len(examined) if len(examined) > 1 else 0
    said = [f"{'all' if len(who) == everyone else ', '.join(who)}: {note}" for note, who in notes.items()]
    if config.protocol == R1.name and config.samples < FEWEST_OF_R1:
        said.append(f"r1 is reported over {FEWEST_OF_R1} to 64 samples a problem, here {config.samples}")
    labels = sum(found.labels for found in examined.values())
    if labels:
        write_jsonl(out / DISAGREEMENTS, disagreements)
        said.append(f"{labels:,} labels compared, the judge disagrees with {len(disagreements):,}: {DISAGREEMENTS}")
    return Report(
        counts={
            "checkpoints": len(examined),
            "problems": asked,
            "samples": sum(len(found.items) for found in examined.values()),
            "resumed": sum(found.resumed for found in examined.values()),
            "labels": labels,
            "disagreements": len(disagreements),
        },
        tokens=sum(found.tokens for found in examined.values()),
        lines=(*table(scores, paired, dropped), *said),
        marks={**_marks(scores, paired, dropped), "notes": said},
    )


def _further(name: str, found: Examined, bad: Container[str], mark: str | None) -> Iterator[Score]:
    """The first sample's worth of scores by each further reading, the metric being the reading's name."""
    for reading, items in found.further.items():
        kept = group(item for item in items if item.problem_id not in bad)
        for row in score(kept, name, found.fingerprint, found.protocol, [1], contamination=mark):
            yield row.model_copy(update={"metric": reading})


def _notes(found: Examined, bad: int, asked: int) -> list[str]:
    """What a reader must know before quoting the score."""
    statuses = Counter(item.status for item in found.items)
    notes = []
    if bad:
        notes.append(f"{bad:,} problems left out, their reference answer cannot be judged")
    if doubtful := statuses["timeout"] + statuses["undecided"]:
        notes.append(f"{doubtful:,} timed out or undecided, counted as not solved")
    answered = len({item.problem_id for item in found.items})
    if answered < asked:
        notes.append(f"answers {answered:,} of {asked:,} problems; the score is over those")
    return notes


def _marks(scores: Sequence[Score], paired: Sequence[Paired], dropped: Sequence[Drop]) -> dict[str, Any]:
    keys = ("value", "low", "high", "n")
    total = [row for row in scores if row.task == ALL]
    return {
        "protocols": {row.checkpoint: row.protocol for row in total},
        "scores": {row.checkpoint: {key: getattr(row, key) for key in keys} for row in total if row.metric == PASS_1},
        "paired": [row.model_dump() for row in paired if row.task == ALL],
        **({"drops": [row.model_dump() for row in dropped if "/" not in row.task]} if dropped else {}),
    }


def _check_pairs(config: BenchConfig, checkpoints: Mapping[str, object]) -> None:
    for name in (name for both in config.compare for name in both):
        if name not in checkpoints:
            hint = did_you_mean(name, checkpoints)
            raise UserError(f"compare: unknown checkpoint {name!r}{hint}; there are {', '.join(checkpoints)}")
