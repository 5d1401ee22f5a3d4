"""Measure: how hard each trace is for a model that did not write it, or how sure the one is that did.

Renders every trace of a harvest as a student is trained on it (the chat contract), scores it
teacher-forced, and appends one `Measure` a trace to the ledger `measures/`. The loss is the one
training would start from: mean negative natural log-likelihood over the completion's tokens, the
end of the turn included (Hinton et al. 2015 and every SFT loss since; `transformers` gives the
same number for the same ids). Steps are lines and sentences of the text, so that two models with
different tokenizers can be compared (`distill.curate.divergence`).
Does not judge, select or cut: a trace that cannot be measured is a row that says why.
"""

import math
import re
import time
from array import array
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from distill.curate.questions import Questions
from distill.curate.reading import Spoken
from distill.curate.row import MAX_LOSS, Measured
from distill.errors import UserError
from distill.harvest.draw import TRACES
from distill.ledger import Ledger, count_records, read_ledger
from distill.progress import Progress
from distill.prompts import END_THINK, Chat, Turn
from distill.recipe import StageConfig
from distill.records import Fraction, Message, Record, SamplerId
from distill.runs import Report
from distill.sampling.endpoint import EndpointConfig
from distill.sampling.protocols import Sampler, TokenScores
from distill.selection import Ask, Instruction, asking

MEASURES = "measures"
QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
STEP_END = re.compile(r"(?<=[.!?;。！？])\s+(?=\S)|\s*\n\s*(?=\S)")
"""A step ends with its sentence or line. The miniature's end with `;`."""
Absence = Literal["too-long", "unfinished", "empty"]
"""Why a trace has no loss: beyond the context, cut by its token limit, or nothing to say."""


class MeasureConfig(StageConfig):
    """Which traces under which model."""

    inputs: ClassVar[tuple[str, ...]] = ("traces", "problems", "model", "tokenizer")
    traces: str | tuple[str, ...]
    """Harvest steps whose traces are measured."""
    problems: str | tuple[str, ...]
    """Steps or files with the problems the traces answer."""
    model: str | None = None
    """Checkpoint that measures: a student, trained or not, or a teacher."""
    endpoint: EndpointConfig | None = None
    """Instead of a model: a server that returns log-probabilities of prompts (vLLM)."""
    tokenizer: str | None = None
    """With `endpoint`: checkpoint whose tokenizer and chat template the server's model has."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What `model` computes in; losses are float32."""
    thought: Literal["keep", "drop"] = "keep"
    """As in curate: drop measures the answer alone."""
    instruction: Instruction = "none"
    """What the user turn says after the problem."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest conversation measured, prompt included; None is the model's context. Longer ones are `too-long`."""
    top_k: int = Field(default=10, gt=0)
    """A token outside so many likeliest ones counts into `outside_top`."""

    @model_validator(mode="after")
    def _one_who_measures(self) -> "MeasureConfig":
        if not self.traces:
            raise ValueError("traces: expected at least one harvest step, got none")
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("model and endpoint: give exactly one of them")
        if (self.endpoint is None) != (self.tokenizer is None):
            raise ValueError("tokenizer: needed with endpoint, and only there")
        if self.endpoint is not None and self.endpoint.serve:
            raise ValueError("endpoint.serve: llama.cpp returns no log-probabilities of prompts; give a url")
        if self.endpoint is not None and self.endpoint.api != "chat":
            raise ValueError("endpoint.api: a measured text is rendered by `tokenizer` of this table; leave it out")
        if self.endpoint is not None and self.max_tokens is None:
            raise ValueError("max_tokens: needed with endpoint, a server does not tell its context")
        return self


class Measure(Record):
    """What one model makes of one trace. Losses are natural-log, a token, in the model's own tokens."""

    trace_id: str
    model: SamplerId
    tokens: int = 0
    """Tokens of the completion, end of turn included: those that carry loss."""
    prompt_tokens: int = 0
    absent: Absence | None = None
    """Why nothing below is there."""
    loss: float | None = None
    """Mean over the completion's tokens; `exp(loss)` is its perplexity."""
    thought_loss: float | None = None
    """Mean over the think block with its tags; None without one."""
    answer_loss: float | None = None
    """Mean over what follows it."""
    worst: float | None = None
    """Loss of the least likely token."""
    worst_at: int | None = None
    """Its index among the completion's tokens."""
    outside_top: Fraction | None = None
    """Share of tokens that are not among the `top_k` likeliest."""
    steps: tuple[float, ...] = ()
    """Mean log-probability a token of each step, 0 where none ends in it: `exp` of it is their geometric mean."""
    step_tokens: tuple[int, ...] = ()
    """Tokens of each step; they add up to `tokens`."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A trace ready to be scored, or why it is not."""

    trace_id: str
    turn: Turn | None
    absent: Absence | None
    length: int = 0


def measure(
    traces: Sequence[Path],
    problems: Sequence[Path],
    out: Path,
    config: MeasureConfig,
    *,
    sampler: Sampler,
    chat: Chat,
    context: int,
    progress: Progress,
) -> Report:
    """Measure every trace of the harvests that `out` lacks; what is stored there already is kept.

    `chat` renders for the model behind `sampler`, which takes at most `context` tokens.
    """
    limit = min(context, config.max_tokens or context)
    tally = _Tally()
    with closing(Questions(problems, progress)) as questions, Ledger(out / MEASURES) as ledger:
        if ledger.cut:
            progress.say(f"{MEASURES}: cut a torn tail of {ledger.cut:,} bytes left by a kill; it is measured again")
        done = set()
        for stored in read_ledger(out / MEASURES, Measure):
            done.add(stored.trace_id)
            tally.count(stored)
        resumed, begun = len(done), time.monotonic()
        total = sum(count_records(folder / TRACES) for folder in traces)
        rendered = (_render(trace, questions, config, chat, limit) for trace in _missing(traces, done))
        with progress.task("measure", total=total - resumed, unit="traces") as task:
            for measured in _measured(rendered, sampler, config.top_k):
                tally.count(ledger.append(measured))
                task.advance(tokens=0 if measured.absent else measured.prompt_tokens + measured.tokens)
        seconds = time.monotonic() - begun
    return tally.report(sampler.identity, config, resumed, task.tokens / max(seconds, 1e-9))


def read_measures(folder: Path) -> Iterator[Measure]:
    """Measures of a run folder, one by one. Raises UserError when it is no run of this stage."""
    if not (folder / MEASURES).is_dir():
        raise UserError(f"{folder}: no {MEASURES}/ in it; expected a run folder of stage measure")
    return read_ledger(folder / MEASURES, Measure)


def light_measures(folder: Path) -> dict[str, Measured]:
    """By trace id what curate remembers of a measure; traces that could not be measured are left out."""
    return {
        found.trace_id: Measured(found.tokens, found.loss, found.thought_loss, found.answer_loss)
        for found in read_measures(folder)
        if found.loss is not None
    }


def _missing(traces: Sequence[Path], done: set[str]) -> Iterator[Spoken]:
    """Every trace once, in the order of the ledgers; ids that were given out are added to `done`."""
    for folder in traces:
        for trace in read_ledger(folder / TRACES, Spoken):
            if trace.id not in done:
                done.add(trace.id)
                yield trace


def _render(trace: Spoken, questions: Questions, config: MeasureConfig, chat: Chat, limit: int) -> _Rendered:
    number = questions.find(trace.problem_id)
    if number is None:
        where = ", ".join(str(path) for path in questions.paths)
        raise UserError(
            f"{where}: has no problem {trace.problem_id!r}, which trace {trace.id} answers; "
            f"expected the problems the traces were harvested from"
        )
    if trace.finish != "stop":
        return _Rendered(trace.id, None, "unfinished")
    text = trace.say(config.thought)
    if not text.strip():
        return _Rendered(trace.id, None, "empty")
    ask: Ask = asking(config.instruction)
    turn = chat.turn((*ask(questions[number]), Message(role="assistant", content=text)))
    length = len(turn.token_ids)
    return _Rendered(trace.id, None, "too-long", length) if length > limit else _Rendered(trace.id, turn, None)


def _measured(rendered: Iterable[_Rendered], sampler: Sampler, top_k: int) -> Iterator[Measure]:
    """Measures in the order given. The sampler reads ahead; what waits for it is bounded by how far it does."""
    waiting: deque[_Rendered] = deque()

    def sequences() -> Iterator[list[int]]:
        for one in rendered:
            waiting.append(one)
            if one.turn is not None:
                yield one.turn.token_ids

    def absent() -> Iterator[Measure]:
        while waiting and waiting[0].turn is None:
            one = waiting.popleft()
            yield Measure(trace_id=one.trace_id, model=sampler.identity, absent=one.absent, tokens=one.length)

    for scores in sampler.score_many(sequences(), top_k):
        yield from absent()
        one = waiting.popleft()
        assert one.turn is not None, "those without are absent"
        yield measure_turn(one.trace_id, one.turn, scores, sampler.identity)
    yield from absent()


def measure_turn(trace_id: str, turn: Turn, scores: TokenScores, model: SamplerId) -> Measure:
    """The measure of one scored turn. Raises UserError when the model gives a token no finite probability."""
    given = scores.logprobs[turn.first - 1 :].tolist()
    losses = [-logprob for logprob in given]
    if not all(math.isfinite(loss) for loss in losses):
        raise UserError(
            f"{model.name}: trace {trace_id}: a loss is not a finite number; its weights or dtype are broken"
        )
    outside = (scores.logprobs < scores.top_logprobs[:, -1])[turn.first - 1 :].tolist()
    answer_from = _answer_from(turn.text)
    thought = [loss for loss, last in zip(losses, turn.last_characters, strict=True) if last < answer_from]
    answer = losses[len(thought) :]
    steps = _by_step(given, turn, answer_from)
    worst_at = max(range(len(losses)), key=losses.__getitem__)
    return Measure(
        trace_id=trace_id,
        model=model,
        tokens=len(losses),
        prompt_tokens=turn.first,
        loss=_mean(losses),
        thought_loss=_mean(thought) if thought else None,
        answer_loss=_mean(answer) if answer else None,
        worst=round(losses[worst_at], 6),
        worst_at=worst_at,
        outside_top=round(sum(outside) / len(outside), 6),
        steps=tuple(round(math.fsum(step) / len(step), 4) if step else 0.0 for step in steps),
        step_tokens=tuple(len(step) for step in steps),
    )


def _mean(losses: Sequence[float]) -> float:
    return round(math.fsum(losses) / len(losses), 6)


def _answer_from(text: str) -> int:
    """Where the answer begins; 0 without a think block."""
    place = text.find(END_THINK)
    return 0 if place < 0 else place + len(END_THINK)


def _by_step(values: Sequence[float], turn: Turn, answer_from: int) -> list[list[float]]:
    """Values of each step's tokens, none where a tokenizer joins two steps: a token belongs where it ends.

    Step boundaries depend on the text alone, so that steps of two models are the same stretches.
    """
    closing = answer_from - len(END_THINK)
    ends = (found.end() for found in STEP_END.finditer(turn.text))
    starts = sorted({0, answer_from, *(end for end in ends if end != closing)})
    steps: list[list[float]] = [[] for _ in starts]
    for value, last in zip(values, turn.last_characters, strict=True):
        steps[bisect_right(starts, last) - 1].append(value)
    return steps


class _Tally:
    """What the report says, from light numbers only."""

    def __init__(self) -> None:
        self.absent: Counter[str] = Counter()
        self.losses, self.outside = array("d"), array("d")
        self.tokens = 0

    def count(self, measured: Measure) -> None:
        if measured.absent is not None:
            self.absent[measured.absent] += 1
            return
        assert measured.loss is not None, "it is not absent"
        assert measured.outside_top is not None, "it is not absent"
        self.tokens += measured.tokens
        self.losses.append(measured.loss)
        self.outside.append(measured.outside_top)

    def report(self, model: SamplerId, config: MeasureConfig, resumed: int, rate: float) -> Report:
        """UserError when not one trace could be measured."""
        count, absent = len(self.losses), dict(sorted(self.absent.items()))
        said = ", ".join(f"{why} {number:,}" for why, number in absent.items())
        if not count:
            raise UserError(
                f"measure: none of {self.absent.total():,} traces could be measured ({said or 'no traces'})"
            )
        spread = dict(zip(QUANTILES, np.quantile(self.losses, [*QUANTILES.values()]).tolist(), strict=True))
        loss = {"mean": float(np.mean(self.losses)), **spread}
        lines = [
            f"{count:,} traces under {model.name} ({resumed:,} kept from before), {self.tokens:,} tokens, "
            f"{rate:,.0f} tokens/s" + (f"; absent: {said}" if said else ""),
            "            " + "".join(f"{name:>9}" for name in loss),
            "loss        " + "".join(f"{value:>9.3f}" for value in loss.values()),
            "perplexity  " + "".join(f"{math.exp(min(value, MAX_LOSS)):>9.4g}" for value in loss.values()),
            f"outside the {config.top_k} likeliest: {np.mean(self.outside):.1%} of a trace's tokens",
        ]
        return Report(
            counts={"traces": count, "resumed": resumed, "tokens_per_second": round(rate, 1), **absent},
            tokens=self.tokens,
            lines=tuple(lines),
            marks={
                "model": model.model_dump(),
                "loss": {name: round(value, 6) for name, value in loss.items()},
                "outside_top": round(float(np.mean(self.outside)), 6),
            },
        )
