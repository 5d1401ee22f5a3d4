"""Bench: examine checkpoints on the same held-out problems and say how sure the result is.

Scores carry 95% intervals over problems, pairs of checkpoints are compared problem by
problem, and the items both are made of are kept (Miller 2024, "Adding error bars to evals").
Does not sample twice what is stored, and does not score what is missing: an interrupted
bench resumes, an incomplete one is refused.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from distill.errors import UserError, did_you_mean
from distill.harvest.draw import Judge
from distill.jsonl import write_jsonl
from distill.progress import Progress
from distill.records import Params, Score
from distill.runs import Report
from distill.sampling.protocols import Sampler
from distill.sampling.table import ENGINE_KEYS, EngineConfig
from distill.selection import HeldOut, Instruction, read_problems, select
from evals.contamination import contamination
from evals.examination import Asking, Examined, examine, recorded
from evals.scoring import ALL, PASS_1, Drop, Paired, bad_gold, drops, group, pair, score, table

SCORES, ITEMS, PAIRED, DISAGREEMENTS = "scores.jsonl", "items.jsonl", "paired.jsonl", "disagreements.jsonl"
DROPS = "drops.jsonl"
"""Only where variants were asked beside their originals."""
SAMPLING = ("samples", "temperature", "top_p", "max_tokens", "instruction", *ENGINE_KEYS)
"""Keys that mean nothing for recorded traces."""


class BenchConfig(EngineConfig):
    """Who is examined, on what, how, and which pairs are compared."""

    inputs: ClassVar[tuple[str, ...]] = ("checkpoints", "problems", "traces")
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
    protocol: str | None = None
    """Name of the way of asking; by itself greedy, sampled or recorded. A hash of it is always added."""
    instruction: Instruction = "none"
    """What the user turn says after the problem; step-by-step asks for a boxed answer."""
    samples: int = Field(default=1, gt=0)
    """Samples a problem."""
    temperature: float = Field(default=0.0, ge=0.0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the likeliest tokens that hold this share of the probability."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest completion in the checkpoint's tokens; needed for `checkpoints`."""

    @model_validator(mode="after")
    def _says_who_and_how(self) -> "BenchConfig":
        if bool(self.checkpoints) == bool(self.traces):
            raise ValueError("checkpoints and traces: give one of the two")
        if self.traces and (useless := [key for key in SAMPLING if key in self.model_fields_set]):
            raise ValueError(f"{useless[0]}: means nothing for traces, they were sampled already")
        if self.checkpoints and self.max_tokens is None:
            raise ValueError("max_tokens: missing (checkpoints are sampled)")
        if min(self.k) < 1 or (self.checkpoints and max(self.k) > self.samples):
            raise ValueError(f"k: each must be from 1 to samples ({self.samples}), got {list(self.k)}")
        if self.maj and (min(self.maj) < 1 or (self.checkpoints and max(self.maj) > self.samples)):
            raise ValueError(f"maj: each must be from 1 to samples ({self.samples}), got {list(self.maj)}")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples: more than one needs a temperature above 0, greedy samples are all the same")
        return self

    def asking(self, seed: int) -> Asking:
        """How a checkpoint is asked."""
        assert self.max_tokens is not None, "checked with the config"
        params = Params(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p)
        how = self.protocol or ("greedy" if self.temperature == 0 else "sampled")
        return Asking(how, params, self.samples, self.instruction, seed)


def bench(
    checkpoints: Mapping[str, Path],
    problems: Path,
    out: Path,
    config: BenchConfig,
    *,
    traces: Sequence[Path] = (),
    sampler_for: Callable[[Path], Sampler],
    judge: Judge,
    seed: int,
    progress: Progress,
) -> Report:
    """Examine `checkpoints`, or score the harvest folders `traces`, into `out`.

    A checkpoint's traces and verdicts stand in `out/<checkpoint>/`; recorded ones stay where
    they are.
    """
    everything = read_problems(problems)
    asked = select(everything, config.select, problems)
    if traces:
        known = {problem.id for problem in everything}
        examined = recorded(traces, asked, known, config.protocol or "recorded")
        _check_pairs(config, examined)
    else:
        _check_pairs(config, checkpoints)
        how = config.asking(seed)
        examined = {
            name: examine(name, asked, out / name, how, sampler=sampler_for(folder), judge=judge, progress=progress)
            for name, folder in checkpoints.items()
        }
    sources = {problem.source for problem in asked}
    marks = {name: contamination(folder, sources) for name, folder in checkpoints.items()}
    return _write(examined, marks, len(asked), out, config)


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
    everyone = len(examined) if len(examined) > 1 else 0
    said = [f"{'all' if len(who) == everyone else ', '.join(who)}: {note}" for note, who in notes.items()]
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
