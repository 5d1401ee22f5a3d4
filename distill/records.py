"""The nouns: Problem -> Completion -> Trace + Verdict -> Example -> Score.

Every room reads and writes these and nothing else; on disk each is one JSON object a
line. Fractions are in [0, 1], token counts in the sampler's own tokens, times in seconds.
"""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Status = Literal["correct", "wrong", "unparsed", "truncated", "timeout", "gold_bad", "undecided"]
"""What the judge says. Never a bare bool: `wrong`, `unparsed` and `timeout` are different facts."""

Finish = Literal["stop", "length", "cancelled"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Record(BaseModel):
    """One line of a JSONL file: frozen, unknown keys refused, NaN refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        """One line of JSON without a newline; keys that hold their default None are left out."""
        fields = type(self).model_fields.items()
        idle = {name for name, field in fields if field.default is None and getattr(self, name) is None}
        return self.model_dump_json(exclude=idle)


class Exchange(Record):
    """One run of a program that reads stdin and prints."""

    stdin: str
    stdout: str
    """What it must print; white space at the ends of lines does not count."""


class Tests(Record):
    """How a program is judged: `prefix + answer` is the candidate's source."""

    __test__: ClassVar[bool] = False  # pytest would collect the name
    entry_point: str
    """Function under test; empty where the checks name theirs, or the program reads and prints."""
    check: str | tuple[str, ...] | tuple[Exchange, ...]
    """`def check(candidate)` source (HumanEval), assert statements (MBPP), or what is read and printed (contests)."""
    setup: str = ""
    """Source that runs before the program and before its checks, imports say."""
    prefix: str = ""
    """Source before the answer, for problems whose prompt is the head of the program."""


class Problem(Record):
    """A question with what is needed to judge an answer."""

    id: str
    kind: Literal["answer", "code", "open"]
    prompt: str
    answer: str | None = None
    tests: Tests | None = None
    source: str
    """Family or benchmark: `stories`, `gsm8k`."""
    split: Literal["train", "test"]
    level: int | None = None
    subject: str | None = None
    solution: str | None = None
    """A worked solution when the source has one: a human rationale, or the oracle's reasoning."""

    @model_validator(mode="after")
    def _has_what_its_judge_needs(self) -> "Problem":
        if self.kind == "answer" and self.answer is None:
            raise ValueError("kind 'answer' needs the key 'answer'")
        if self.kind == "code" and self.tests is None:
            raise ValueError("kind 'code' needs the key 'tests'")
        return self


class SamplerId(Record):
    """Who spoke: enough to tell two teachers apart years later."""

    name: str
    revision: str
    """Content hash or version of the weights, file or service behind the name."""


def unused(value: object) -> bool:
    """For `exclude_if`: a key that came later is written only where it says something."""
    return value is None


class Params(Record):
    """How it was asked to speak. `temperature` 0 is greedy.

    Keys that came later are written only when they are used: trace ids hash what is written.
    """

    max_tokens: int = Field(gt=0)
    temperature: float = Field(default=1.0, ge=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    """0 keeps all tokens."""
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    stop: tuple[str, ...] = ()
    """Strings that end a completion; the string itself is not part of the text."""
    repetition_penalty: float | None = Field(default=None, gt=0.0, exclude_if=unused)
    """Above 1 makes tokens of prompt and completion less likely to come again."""
    top_logprobs: int | None = Field(default=None, gt=0, exclude_if=unused)
    """Keep so many likeliest tokens at the place of each sampled one. Changes nothing that is sampled."""


TopLogprobs = tuple[tuple[tuple[int, float], ...], ...]
"""For each sampled token the likeliest tokens at its place: id and natural log-probability, likeliest first."""


class Completion(Record):
    """What a sampler said once: text after the prompt, special tokens included."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each sampled token under the unmodified distribution."""
    top_logprobs: TopLogprobs | None = None
    """As many a token as `Params.top_logprobs` asks for, under the same distribution."""
    reasoning: str | None = None
    """Set by servers that return the thought apart from the answer."""
    cached_tokens: int | None = None
    """Of the prompt's tokens those a server says it did not read again; None where it says nothing."""
    together: int | None = None
    """Completions of the call that brought this one, when several: they share its prompt, counted in each of them."""


class Trace(Record):
    """One chain of thought with its answer, and all that is needed to sample it again."""

    id: str
    problem_id: str
    sampler: SamplerId
    params: Params | None
    """None when nobody recorded how it was asked, as with most imported traces."""
    round: int = 0
    sample_index: int
    parent: str | None = None
    """The trace this one continues or corrects."""
    examples: tuple[str, ...] | None = None
    """Traces shown before the problem as worked examples."""
    reasoning: str | None
    """The thought without its tags; None when the completion has no complete think block."""
    answer: str | None
    """What follows the thought; None when the thought never ended."""
    text: str
    finish: Finish
    think_open: bool = False
    """True when the prompt already opened the think block."""
    prompt_tokens: int
    completion_tokens: int
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    top_logprobs: TopLogprobs | None = None
    cached_tokens: int | None = None
    together: int | None = None
    """Completions of the call that brought it, when several: `prompt_tokens` is that of the call."""


class Verdict(Record):
    """What the judge says about one trace, and why."""

    trace_id: str
    judge_version: str
    status: Status
    extracted: str | None = None
    expected: str | None = None
    why: str = ""
    seconds: float = 0.0
    isolation: Literal["process", "proxy", "in-process", "none"] | None = None
    """Programs only: how the candidate was kept apart from its judge."""


class Message(Record):
    """One turn. An assistant turn holds the whole text: think block and answer.

    `text` is no turn but a whole prompt, which goes to a model as it stands, without a chat template: what base models
    are asked, with worked examples before the question. It stands alone.
    """

    role: Literal["system", "user", "assistant", "text"]
    content: str


class Example(Record):
    """One row a student learns from; the loss is on assistant turns only."""

    id: str
    problem_id: str
    trace_id: str | None
    messages: tuple[Message, ...] = Field(min_length=1)
    tokens: int | None = None
    """Length in the student's tokens, prompt included, when the tokenizer was known."""
    order: int
    """Place in the curriculum, 0 first."""

    @model_validator(mode="after")
    def _is_a_conversation(self) -> "Example":
        if any(message.role == "text" for message in self.messages):
            raise ValueError("messages: a text is no turn; expected system, user or assistant")
        return self


class Score(Record):
    """A measured fraction with its interval. A score is never a bare number."""

    checkpoint: str
    fingerprint: str
    task: str
    """A benchmark or family, `all`, or `<family>/level-N`."""
    protocol: str
    metric: str
    value: Fraction
    n: int
    low: Fraction
    high: Fraction
    truncated: Fraction
    no_answer: Fraction
    tokens_per_answer: float
    contamination: str | None = None
    """How held-out problems were kept from what the checkpoint learned from; None where nobody looked it up."""


class Item(Record):
    """One problem, one sample, one checkpoint: the row every statistic is made of."""

    checkpoint: str
    problem_id: str
    sample_index: int
    status: Status
    trace_id: str
    task: str
    level: int | None = None
    tokens: int
    answer: str | None = None
    """What the judge compared, where it was no program: its vote for maj@k."""


def fingerprint(value: Any) -> str:
    """16 hex digits of the SHA-256 of `value` as canonical JSON; equal content, equal digits."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def reason(error: ValidationError) -> str:
    """The first complaint of a validation error, as `key: problem`."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
