"""Logits: what a teacher would have said at every token a student is to learn, kept beside the examples.

The teacher reads each example of a curate step, teacher-forced, and at every position that carries loss its
`top_k` likeliest tokens are kept with their log-probabilities, and the mass of all others (`sidecar`). The
examples are copied beside them, so that the folder is a training set like any other; stage `kd` learns from
both. Who answers is a `Sampler`: a native teacher or student in this process, or a server that gives
log-probabilities of prompts.
Does not sample and does not judge; a row is never cut.
"""

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distill.curate.curriculum import order_file
from distill.errors import UserError
from distill.progress import Progress
from distill.prompts import Chat
from distill.recipe import StageConfig
from distill.runs import MANIFEST, Report, read_manifest, write_durably
from distill.sampling.endpoint import EndpointConfig
from distill.sampling.protocols import Sampler, TokenScores
from distill.train.rows import EXAMPLES, IGNORED, Rows, read_rows
from distill.train.tokens import size, vocabulary_of

if TYPE_CHECKING:
    from distill.train.divergences import Told

ANY_LENGTH = 2**31
"""Lengths are checked against the teacher's context, not against a training table."""


class Scoring(StageConfig):
    """Who scores a student's tokens, in any table that asks a teacher."""

    endpoint: EndpointConfig | None = None
    """Instead of a folder: a server that returns log-probabilities of prompts (vLLM)."""
    tokenizer: str | None = None
    """With `endpoint`: checkpoint whose tokenizer and chat template the server's model has."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the teacher computes in; log-probabilities are float32."""
    top_k: int = Field(default=32, gt=0, le=4096)
    """Likeliest tokens kept a position. vLLM gives 20 at most unless it was started with more (`--max-logprobs`)."""

    @model_validator(mode="after")
    def _server_has_what_it_needs(self) -> Self:
        if (self.endpoint is None) != (self.tokenizer is None):
            raise ValueError("tokenizer: needed with endpoint, and only there")
        if self.endpoint is not None and self.endpoint.serve:
            raise ValueError("endpoint.serve: llama.cpp returns no log-probabilities of prompts; give a url")
        if self.endpoint is not None and self.endpoint.api != "chat":
            raise ValueError("endpoint.api: rows are rendered by `tokenizer` of this table; leave it out")
        return self


class LogitsConfig(Scoring):
    """Table of a `logits` step."""

    inputs: ClassVar[tuple[str, ...]] = ("data", "model", "tokenizer")
    data: str
    """Step or path of the examples (a curate run folder, or an examples.jsonl)."""
    model: str | None = None
    """Checkpoint that scores: a teacher, or any other."""
    mass: float = Field(default=1.0, gt=0, le=1)
    """Keep no more tokens at a position than have this mass together, if fewer than `top_k` do; 1 keeps `top_k`."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest example scored; None is the model's context. A longer one is refused, never cut."""

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("model and endpoint: give exactly one of them")
        if self.endpoint is not None and self.max_tokens is None:
            raise ValueError("max_tokens: needed with endpoint, a server does not tell its context")
        return self


def logits(
    data: Path, out: Path, config: LogitsConfig, *, sampler: Sampler, chat: Chat, context: int, progress: Progress
) -> Report:
    """Score every example of `data` that `out` lacks. `chat` renders for the model behind `sampler`."""
    from distill.train.sidecar import LOGITS, Scored, Writer, sizes

    vocabulary = vocabulary_of(chat)
    rows = read_rows(data, chat, size(vocabulary), ANY_LENGTH, "refuse")
    _check(rows, data, min(context, config.max_tokens or context))
    _copy(data, out)
    writer = Writer(out / LOGITS, vocabulary)
    done = len(writer.written)
    assert writer.written == rows.examples[:done], "the same data, in the same order"
    began, tokens = time.monotonic(), 0
    with progress.task("logits", len(rows.examples), "examples") as task:
        task.advance(done)
        scores = sampler.score_many(rows.token_ids[done:], config.top_k)
        for place, found in enumerate(scores, done):
            loss = [label != IGNORED for label in rows.labels[place]]
            where = f"{data}: example {rows.examples[place]}"
            told = keep(found, loss, size(vocabulary), config.mass, where)
            writer.add(Scored(rows.examples[place], rows.token_ids[place], loss, told))
            tokens += len(loss)
            task.advance(tokens=len(loss))
    writer.flush()
    rate = tokens / max(time.monotonic() - began, 1e-9)
    return _report(rows, sum(sizes(out / LOGITS)), tail_of(out), data, sampler, rate)


def keep(found: TokenScores, loss: Sequence[bool], vocabulary: int, mass: float, where: str) -> "Told":
    """What of a row's scores is stored: at loss positions, real tokens, up to `mass`.

    Raises UserError for a log-probability that is not finite, or a position without a real token.
    """
    import torch

    from distill.train.divergences import Told

    at_N = torch.tensor(loss[1:]).nonzero().squeeze(-1)  # scores begin with the second token
    ids_NK, logprobs_NK = found.top_ids[at_N], found.top_logprobs[at_N].float()
    if not logprobs_NK.isfinite().all():
        raise UserError(f"{where}: a log-probability is not a finite number; the teacher's weights or dtype are broken")
    real = Told(ids_NK, logprobs_NK, torch.zeros(len(at_N))).within(vocabulary)
    kept_NK = real.logprobs_NK.isfinite()
    chance_NK = real.logprobs_NK.double().exp()
    before_NK = chance_NK.cumsum(-1) - chance_NK
    kept_NK &= (before_NK < mass) | (mass == 1.0)
    if not kept_NK.any(-1).all():
        raise UserError(f"{where}: the teacher's likeliest tokens are padding; its tokenizer is not its model's")
    tail_N = (1.0 - chance_NK.masked_fill(~kept_NK, 0.0).sum(-1)).clamp(min=0.0)
    return Told(real.ids_NK, logprobs_NK.masked_fill(~kept_NK, -math.inf), tail_N.float())


def tail_of(out: Path) -> float:
    """Mean mass of the tail over all positions of a sidecar."""
    from safetensors.torch import load_file

    from distill.train.sidecar import LOGITS

    tails = [load_file(path)["tail"].double() for path in sorted((out / LOGITS).glob("*.safetensors"))]
    return sum(float(tail.sum()) for tail in tails) / sum(map(len, tails))


def _check(rows: Rows, data: Path, limit: int) -> None:
    """An example is found by its id and fits into the teacher's context. Raises UserError naming one that does not."""
    seen: set[str] = set()
    for name, length in zip(rows.examples, rows.lengths, strict=True):
        if name in seen:
            raise UserError(f"{data}: two examples are named {name!r}; expected an id each")
        if length > limit:
            raise UserError(
                f"{data}: example {name}: {length} tokens, the teacher takes {limit}; leave it out with max_tokens in "
                "curate (rows are never cut)"
            )
        seen.add(name)


def _copy(data: Path, out: Path) -> None:
    """The examples and their orders, so that the folder is whole by itself."""
    source = data / EXAMPLES if data.is_dir() else data
    write_durably(out / EXAMPLES, source.read_text(encoding="utf-8"))
    for order in source.parent.glob(order_file("*")) if data.is_dir() else ():
        shutil.copyfile(order, out / order.name)


def _report(rows: Rows, stored: int, tail: float, data: Path, sampler: Sampler, rate: float) -> Report:
    positions = sum(label != IGNORED for labels in rows.labels for label in labels)
    marks = dict(read_manifest(data).report.marks) if (data / MANIFEST).is_file() else {}
    lines = (
        f"{len(rows.examples):,} examples under {sampler.identity.name}, {positions:,} loss positions, "
        f"{rate:,.0f} tokens/s",
        f"{stored:,} bytes, {stored / positions:.1f} a loss position; {tail:.2%} of the mass is in the tail",
    )
    return Report(
        counts={
            "examples": len(rows.examples),
            "positions": positions,
            "bytes": stored,
            "bytes_per_position": round(stored / positions, 2),
            "tail": round(tail, 6),
        },
        tokens=sum(rows.lengths),
        lines=lines,
        marks={**marks, "teacher": sampler.identity.model_dump()},
    )
