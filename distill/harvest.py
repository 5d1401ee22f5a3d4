"""Harvest: ask a sampler for n traces a problem and have each one judged.

Every trace and verdict goes into a ledger the moment it exists, under an id that is known
before the sample is drawn, so an interrupted harvest asks only for what is missing
(rejection sampling as in DeepSeek-R1, section 2.3.3, made restartable). Benchmarks are
sampled through the same function.
Does not choose which traces to keep: that is curate's work.
"""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, get_args

from pydantic import Field, model_validator

from distill.errors import UserError
from distill.ledger import Ledger, read_ledger, trace_id
from distill.progress import Progress, Task
from distill.prompts import to_trace
from distill.records import Completion, Params, Problem, Status, Trace, Verdict
from distill.runs import Report
from distill.sampling.endpoint import EndpointConfig
from distill.sampling.protocols import Request, Sampler
from distill.sampling.replay import ReplayConfig
from distill.sampling.table import ENGINE_KEYS, EngineConfig
from distill.selection import Ask, Instruction, Selection, asking, read_problems, select

TRACES, VERDICTS = "traces", "verdicts"

NEEDS = {"model": "engine", "error_rate": "oracle", "endpoint": "endpoint", "replay": "replay"}
"""The one field each kind of sampler cannot do without."""
ENGINE_ONLY = (*ENGINE_KEYS, "repetition_penalty", "top_logprobs")
"""Servers have no common word for these."""
ENGINE_OR_ENDPOINT = ("top_k", "min_p")


class HarvestConfig(EngineConfig):
    """Who is asked, what, how often and how."""

    inputs: ClassVar[tuple[str, ...]] = ("problems", "model")
    problems: str
    """Step or file with the problems."""
    model: str | None = None
    """Checkpoint of the sampler `engine`."""
    sampler: Literal["engine", "oracle", "endpoint", "replay"] = "engine"
    """engine: our own over `model`; oracle: a family's known solution; endpoint: a server; replay: a recording."""
    error_rate: float | None = Field(default=None, ge=0.0, le=1.0)
    """Share of wrong traces the oracle writes on purpose."""
    terse_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the oracle's traces that jump to the answer with an empty thought."""
    repeat_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the steps of the oracle's thoughts that are said twice, so that right traces of a problem differ."""
    endpoint: EndpointConfig | None = None
    """Server of the sampler `endpoint`."""
    replay: ReplayConfig | None = None
    """Recording of the sampler `replay`."""
    select: Selection = Selection()
    """Which problems are asked."""
    instruction: Instruction = "none"
    """What the user turn says after the problem; step-by-step asks for a boxed answer."""
    samples: int = Field(default=1, gt=0)
    """Traces a problem."""
    temperature: float = Field(default=1.0, ge=0.0)
    """0 is greedy, 1 the sampler's own distribution."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the likeliest tokens that hold this share of the probability."""
    top_k: int = Field(default=0, ge=0)
    """Sample from so many likeliest tokens; 0 from all."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    """Sample from tokens at least this share as likely as the likeliest."""
    repetition_penalty: float | None = Field(default=None, gt=0.0)
    """Above 1 makes tokens of prompt and completion less likely to come again; `engine` only."""
    top_logprobs: int | None = Field(default=None, gt=0)
    """Keep so many likeliest tokens with their log-probabilities at each place; `engine` only."""
    max_tokens: int = Field(gt=0)
    """Longest completion, in the sampler's tokens."""
    seed: int = Field(default=0, ge=0)
    """Added to the recipe's seed, to draw other samples of the same problems."""
    defer_verdicts: bool = False
    """Only sample; the verdicts are drawn later from the stored traces."""

    @model_validator(mode="after")
    def _fields_fit_the_sampler(self) -> "HarvestConfig":
        for key, sampler in NEEDS.items():
            if self.sampler == sampler and getattr(self, key) is None:
                raise ValueError(f"{key}: missing, sampler {sampler!r} needs it")
            if self.sampler != sampler and getattr(self, key) is not None:
                raise ValueError(f"{key}: only sampler {sampler!r} has a use for it, got sampler {self.sampler!r}")
        for keys, samplers in ((ENGINE_ONLY, ("engine",)), (ENGINE_OR_ENDPOINT, ("engine", "endpoint"))):
            for key in keys:
                if key in self.model_fields_set and self.sampler not in samplers:
                    raise ValueError(
                        f"{key}: sampler {self.sampler!r} has no use for it, only {' and '.join(samplers)}"
                    )
        for key in ("terse_rate", "repeat_rate"):
            if getattr(self, key) and self.sampler != "oracle":
                raise ValueError(f"{key}: only sampler 'oracle' has a use for it, got sampler {self.sampler!r}")
        return self

    @property
    def params(self) -> Params:
        """How the sampler is asked to speak."""
        keys = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "top_logprobs")
        return Params(**{key: getattr(self, key) for key in keys})


class Judge(Protocol):
    """Whoever says which traces are right."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Raise now when these problems could not be judged later: asked before the first sample is drawn."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        """One verdict a pair, in order; may read ahead, so that judging overlaps sampling."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One stored sample."""

    problem: Problem
    trace: Trace
    verdict: Verdict | None
    """None only when verdicts are deferred."""
    resumed: bool
    """True when the trace was already stored."""


def harvest(
    problems: Path,
    out: Path,
    config: HarvestConfig,
    *,
    sampler: Sampler,
    judge: Judge | None,
    seed: int,
    progress: Progress,
    chat_fingerprint: str = "",
) -> Report:
    """Sample and judge the selected problems into `out`; what is stored there already is kept.

    `judge` is None when the config defers verdicts. `chat_fingerprint` names the chat
    template the sampler renders with.
    """
    chosen = select(read_problems(problems), config.select, problems)
    rows = sample_and_judge(
        chosen,
        out,
        config.params,
        config.samples,
        sampler=sampler,
        judge=None if config.defer_verdicts else judge,
        seed=seed + config.seed,
        progress=progress,
        template=chat_fingerprint,
        ask=asking(config.instruction),
    )
    return _report(rows, len(chosen), config, sampler)


def sample_and_judge(
    problems: Sequence[Problem],
    out: Path,
    params: Params,
    n: int,
    *,
    sampler: Sampler,
    judge: Judge | None,
    seed: int,
    progress: Progress,
    round: int = 0,
    label: str = "harvest",
    template: str = "",
    ask: Ask | None = None,
) -> Iterator[Judged]:
    """Sample indexes 0..n-1 of every problem, each yielded once it and its verdict are in the ledger.

    Stored samples come first, then the missing ones as they are completed. Nothing happens
    until the result is iterated; `out` may hold other samplers' traces, which are left alone.
    """
    job = _Job(problems, params, n, sampler, seed, round, template, ask or asking("none"))
    if judge is not None:
        judge.prepare(problems)
    with Ledger(out / TRACES) as traces, Ledger(out / VERDICTS, after=traces) as verdicts:
        report_cut(progress, traces, verdicts)
        known = {verdict.trace_id: verdict for verdict in read_ledger(out / VERDICTS, Verdict)}
        stored = set()
        for trace in read_ledger(out / TRACES, Trace):
            if trace.id in job.wanted:
                stored.add(trace.id)
                if judge is None or trace.id in known:
                    yield Judged(job.wanted[trace.id][0], trace, known.get(trace.id), resumed=True)
        unjudged = 0 if judge is None else len(stored - known.keys())
        with progress.task(label, total=len(job.wanted) - len(stored) + unjudged, unit="traces") as task:
            if judge is None:
                for problem, trace in job.draw(stored, traces):
                    task.advance(tokens=trace.completion_tokens)
                    yield Judged(problem, trace, None, resumed=False)
            else:
                old = job.again(out, known) if unjudged else iter(())
                yield from judged(judge, old, job.draw(stored, traces), verdicts, task)


class _Job:
    """All samples one call wants, under the ids they will have."""

    def __init__(
        self,
        problems: Sequence[Problem],
        params: Params,
        n: int,
        sampler: Sampler,
        seed: int,
        round: int,
        template: str,
        ask: Ask,
    ) -> None:
        self.problems, self.params, self.n, self.sampler = problems, params, n, sampler
        self.seed, self.round, self.ask = seed, round, ask
        self.ids: dict[str, list[str]] = {}
        self.wanted: dict[str, tuple[Problem, int]] = {}
        for problem in problems:
            messages = ask(problem)
            self.ids[problem.id] = [
                trace_id(
                    problem.id,
                    messages,
                    sampler=sampler.identity,
                    template=template,
                    params=params,
                    seed=seed,
                    round=round,
                    sample_index=index,
                )
                for index in range(n)
            ]
            self.wanted.update((id_, (problem, index)) for index, id_ in enumerate(self.ids[problem.id]))

    def again(self, out: Path, known: dict[str, Verdict]) -> Iterator[tuple[Problem, Trace]]:
        """Stored traces a kill left without a verdict."""
        for trace in read_ledger(out / TRACES, Trace):
            if trace.id in self.wanted and trace.id not in known:
                yield self.wanted[trace.id][0], trace

    def draw(self, stored: set[str], ledger: Ledger) -> Iterator[tuple[Problem, Trace]]:
        """Sample what is missing, into the ledger. Completions that were cancelled are not stored."""
        known = {problem.id: problem for problem in self.problems}
        for answered in self.sampler.sample(self._requests(stored)):
            problem = known[answered.request.id]
            traces = [
                self._trace(problem, index, completion)
                for index, completion in enumerate(answered.completions, answered.request.first)
                if completion.finish != "cancelled"
            ]
            yield from ((problem, trace) for trace in ledger.extend(traces))

    def _requests(self, stored: set[str]) -> Iterator[Request]:
        """One request per run of missing indexes: sample k of a request is drawn from its seed + k."""
        for problem in self.problems:
            missing = [index for index, id_ in enumerate(self.ids[problem.id]) if id_ not in stored]
            for first, count in _runs(missing):
                seed = problem_seed(self.seed, problem.id, self.round) + first
                yield Request(problem.id, self.ask(problem), self.params, count, seed, first)

    def _trace(self, problem: Problem, index: int, completion: Completion) -> Trace:
        return to_trace(
            completion,
            think_open=self.sampler.think_open,
            id=self.ids[problem.id][index],
            problem_id=problem.id,
            sampler=self.sampler.identity,
            params=self.params,
            round=self.round,
            sample_index=index,
        )


def problem_seed(seed: int, problem_id: str, round: int = 0) -> int:
    """Seed of a problem's sample 0; sample k adds k. Small enough for every server's 32-bit seeds."""
    digest = hashlib.sha256(f"{seed}\n{round}\n{problem_id}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 2


def judged(
    judge: Judge,
    old: Iterator[tuple[Problem, Trace]],
    new: Iterator[tuple[Problem, Trace]],
    ledger: Ledger,
    task: Task,
) -> Iterator[Judged]:
    """Verdicts on stored traces, then on new ones. The judge pulls, so both work at once."""
    waiting: deque[tuple[Problem, Trace, bool]] = deque()

    def pairs() -> Iterator[tuple[Problem, Trace]]:
        for source, resumed in ((old, True), (new, False)):
            for problem, trace in source:
                waiting.append((problem, trace, resumed))
                yield problem, trace

    seen: Counter[str] = Counter()
    for verdict in judge.judge_many(pairs()):
        problem, trace, resumed = waiting.popleft()
        assert verdict.trace_id == trace.id, "the judge must answer in order"
        verdict = ledger.append(verdict)
        seen[verdict.status] += 1
        share = f"yield {seen['correct'] / seen.total():.0%}"
        task.advance(tokens=0 if resumed else trace.completion_tokens, facts=share)
        yield Judged(problem, trace, verdict, resumed)


def _report(rows: Iterable[Judged], problems: int, config: HarvestConfig, sampler: Sampler) -> Report:
    """Count what was harvested: verdicts, tokens, and the yield of every family and level."""
    begun = time.monotonic()
    statuses: Counter[str] = Counter()
    groups: dict[tuple[str, int | None], Counter[str]] = {}
    resumed = tokens = 0
    for row in rows:
        status = row.verdict.status if row.verdict else "unjudged"
        statuses[status] += 1
        groups.setdefault((row.problem.source, row.problem.level), Counter())[status] += 1
        resumed += row.resumed
        tokens += 0 if row.resumed else row.trace.completion_tokens
    seconds = time.monotonic() - begun
    total, expected = statuses.total(), problems * config.samples
    if not total:
        raise UserError(f"harvest: {sampler.identity.name} completed none of {expected} samples")
    rate = tokens / max(seconds, 1e-9)
    lines = [f"{total:,} traces of {problems:,} problems ({resumed:,} kept from before), {rate:,.0f} tokens/s"]
    if total < expected:
        lines.append(f"{expected - total:,} of {expected:,} samples did not arrive")
    lines.append(
        "  ".join(f"{status} {statuses[status]:,}" for status in (*get_args(Status), "unjudged") if statuses[status])
    )
    table = {}
    for (family, level), group in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        name = family if level is None else f"{family}/level-{level}"
        table[name] = {"n": group.total(), "correct": group["correct"]}
        lines.append(f"{name:<32} n {group.total():>8,}  correct {group['correct'] / group.total():>6.1%}")
    return Report(
        counts={
            "problems": problems,
            "traces": total,
            "resumed": resumed,
            "missing": expected - total,
            "tokens_per_second": round(rate, 1),
            **statuses,
        },
        tokens=tokens,
        lines=tuple(lines),
        marks={
            "sampler": sampler.identity.model_dump(),
            "params": config.params.model_dump(),
            "samples": config.samples,
            "yield": table,
        },
    )


def report_cut(progress: Progress, *ledgers: Ledger) -> None:
    """Say what a kill left half written in ledgers that were just opened."""
    for ledger in ledgers:
        if ledger.cut:
            progress.say(
                f"{ledger.folder.name}: cut a torn tail of {ledger.cut:,} bytes left by a kill; it is asked again"
            )


def _runs(indexes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of each run of neighbours: 0 1 2 5 -> (0, 3), (5, 1)."""
    first = 0
    for place, index in enumerate(indexes):
        if place + 1 == len(indexes) or indexes[place + 1] != index + 1:
            yield indexes[first], place + 1 - first
            first = place + 1
