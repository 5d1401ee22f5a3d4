"""What is asked of the engine, and where it stands: jobs, their samples, and prompts on their way into the cache."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from distill.errors import UserError
from distill.records import Finish, Params
from distill.sampling.engine.blocks import Key
from distill.sampling.engine.choice import PENALTIES


@dataclass(frozen=True, slots=True)
class RolledOut:
    """One sample as token ids, its end token included."""

    ids: list[int]
    logprobs: list[float]
    finish: Finish
    top: list[list[tuple[int, float]]] | None = None
    """The likeliest tokens at each place with their log-probabilities, when asked for."""


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt and the seeds of the samples wanted from it."""

    name: str
    prompt_ids: list[int]
    params: Params
    seeds: tuple[int, ...]

    def check(self, capacity: int) -> None:
        """Raise UserError for what could never run."""
        length, wanted = len(self.prompt_ids), self.params.max_tokens
        if length == 0:
            raise UserError(f"{self.name}: the prompt has no tokens")
        if not self.seeds:
            raise UserError(f"{self.name}: asks for no samples (n is 0)")
        least, most = PENALTIES
        if not least <= (self.params.repetition_penalty or 1.0) <= most:
            raise UserError(
                f"{self.name}: repetition_penalty {self.params.repetition_penalty:g}: expected {least:g} to {most:g}"
            )
        if "" in self.params.stop:
            raise UserError(f"{self.name}: stop: an empty string would end every completion")
        if length + wanted > capacity:
            raise UserError(
                f"{self.name}: a prompt of {length} tokens and max_tokens {wanted} need {length + wanted} places, "
                f"but the engine's capacity is {capacity}; raise capacity or lower max_tokens"
            )


@dataclass(frozen=True, slots=True)
class Said:
    """One sampled token, as it comes."""

    sample: int
    """Place of the sample among those of its job."""
    id: int
    logprob: float
    finish: Finish | None
    """Set with the sample's last token."""


Listener = Callable[[Said], None]


@dataclass(slots=True, eq=False)
class Ticket:
    """A submitted job: read `done` and `results`, hand it to `Engine.cancel`; the rest is the engine's."""

    job: Job
    number: int
    """Order of arrival; who came later gives way."""
    listener: Listener | None
    stop_set: int
    todo: deque[int]
    """Samples that have not started."""
    blocks: list[int] = field(default_factory=list)
    """The prompt's, held until the last sample has started or memory runs short."""
    logits_V: Tensor | None = None
    """What follows the prompt, as long as its blocks are held."""
    results: dict[int, RolledOut] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """True when every sample has ended or was cancelled."""
        return len(self.results) == len(self.job.seeds)

    @property
    def samples(self) -> list[RolledOut]:
        """All samples of a job that is done, in the order of its seeds."""
        return [self.results[index] for index in range(len(self.job.seeds))]


@dataclass(slots=True, eq=False)
class Sample:
    """What runs in a row, or ran until its blocks were needed."""

    ticket: Ticket
    index: int
    blocks: list[int]
    row: int | None = None
    said: list[int] = field(default_factory=list)
    """Kept here only while it does not run."""
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)

    @property
    def age(self) -> tuple[int, int]:
        """The smaller, the older."""
        return self.ticket.number, self.index

    @property
    def cached(self) -> list[int]:
        """What the cache holds of it, or has to hold before it can go on: its newest token is not part of that."""
        return self.ticket.job.prompt_ids + self.said[:-1]

    def rolled_out(self, said: list[int], logprobs: list[float], finish: Finish) -> RolledOut:
        """The result."""
        return RolledOut(said, logprobs, finish, self.top if self.ticket.job.params.top_logprobs else None)


@dataclass(slots=True, eq=False)
class Fill:
    """A prompt on its way into the cache, chunk by chunk; a preempted sample's tokens as well."""

    ticket: Ticket
    tokens: list[int]
    blocks: list[int]
    done: int
    """Tokens in the cache, a shared prefix included."""
    room: int
    """Rows kept for the samples that start when it is through."""
    sample: Sample | None
    """The preempted one that goes on then."""
    missing: Key | None
    """Key of the first block that others cannot find yet."""

    @property
    def age(self) -> tuple[int, int]:
        """As of a sample; a prompt counts as its first."""
        return self.ticket.number, self.sample.index if self.sample else 0
