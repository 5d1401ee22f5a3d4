"""Row: what curate remembers of one trace after its text is gone.

A row knows where its record stands, so that a text wanted again is read by place. Filters
of single texts look while the text is in hand; steps over the whole set (duplicates,
policies, order) look at rows alone. Holds no text but the extracted answer, and nothing
that depends on the order the ledgers were read in.
"""

import math
from dataclasses import dataclass

MAX_LOSS = 700.0
"""Above it a perplexity is no float any more."""
UNJUDGED = "unjudged"
"""Status of a trace without a verdict."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model makes of a trace: the numbers of a `Measure`."""

    tokens: int
    """Tokens of the completion, in that model's own."""
    loss: float
    """Mean natural-log loss a token."""
    thought_loss: float | None
    answer_loss: float | None


@dataclass(slots=True)
class Row:
    """One trace on its way to becoming an example. Whoever chooses among rows does not change them."""

    trace_id: str
    problem: int
    """Index into the problems of the step."""
    ledger: int
    """Index of its run folder among `traces`."""
    shard: int
    offset: int
    """Byte at which its line begins in the shard."""
    source: str
    """Family or benchmark of its problem."""
    origin: str
    """Who spoke: name and revision of the sampler."""
    split: str
    level: int | None
    subject: str | None
    kind: str
    round: int
    sample_index: int
    finish: str
    status: str
    """What the judge said, or `unjudged`."""
    extracted: str | None
    """The answer the judge found in the text."""
    isolation: str | None
    """Programs only: how the candidate was kept apart from its judge."""
    characters: int
    """Length of what the student is to say."""
    completion_tokens: int
    """Tokens of the completion, in the sampler's own."""
    tokens: int | None
    """Student tokens, prompt included; None when no tokenizer was named."""
    digest: int
    """128 bits of a hash over prompt and text, white space aside: equal in both, equal digits."""
    sketch: int = 0
    """64-bit SimHash of the text's words (Charikar 2002): like texts differ in few bits; 0 when no policy asks."""
    measures: tuple[Measured | None, ...] = ()
    """One for each step of the key `measures`, in its order; None where that step has not seen the trace."""
    attempts: int = 0
    """Judged traces of its problem, before any filter; counted when all are read."""
    correct: int = 0
    """Of those, how many are correct."""
    order: int | None = None
    """Place among the examples; None while it has none."""

    @property
    def place(self) -> tuple[int, int, int]:
        """Where the record stands: run folder, shard, byte."""
        return self.ledger, self.shard, self.offset

    @property
    def pass_rate(self) -> float | None:
        """Share of its problem's judged traces that are correct; None when none was judged."""
        return self.correct / self.attempts if self.attempts else None

    @property
    def perplexity(self) -> float | None:
        """Under the first step of `measures`; None when it has no loss of this trace."""
        measured = self.measures[0] if self.measures else None
        return None if measured is None else math.exp(min(measured.loss, MAX_LOSS))
