"""Protocol: everything about how a benchmark is put to a model and its answer read, as data with a hash.

Two scores of one checkpoint can be compared only when they were taken alike: one R1-Distill checkpoint was published
nine points apart by five parties without a weight changed. So a score carries its protocol's name and eight digits of
a hash of all that belongs to it: prompt, worked examples, stops, sampling, number of samples, how the answer is found
and which judge said so. A bench that changes a key of a protocol says so in the name: `r1(max_tokens=4096)@1a2b3c4d`.

What is not covered: the checkpoint's chat template, which belongs to the checkpoint.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from distill.records import Params, Record, fingerprint

DIGITS = 8
"""Of the hash, in a score's protocol."""


NAMING = {"name", "source"}
"""What a protocol is called is no part of its hash."""


class Shots(Record):
    """Worked examples before the question. Their text is a benchmark's, so it is read from the user's files."""

    origin: Literal["drawn", "rows", "file"]
    """drawn: from the training split, anew for each problem; rows: named rows; file: a file of examples."""
    n: int
    benchmark: str = ""
    """Whose rows they are."""
    file: str = ""
    """For `file`: its name in the data directory."""
    seed: int = 0
    """For `drawn`: of Python's generator, which goes on from problem to problem in the order of the test file."""
    rows: tuple[str, ...] = ()
    """For `rows`: their ids."""
    edits: tuple[tuple[str, str, str], ...] = ()
    """For `rows`: (id, old, new) where the published example is spaced otherwise than the row."""
    example: str = ""
    """A worked example; the fields are those of the row."""
    sha256: str = ""
    """Of all that stands before the question; of the file's rows where they are drawn."""


class Reading(Record):
    """How an answer is found in what was said, and held against the reference."""

    name: str
    how: Literal["judge", "pattern", "minerva", "program"]
    """judge: the toolkit's own; pattern: the text a regular expression finds, equal to the reference as text;
    minerva: behind "The final answer is", normalized, equal as text or by algebra; program: prompt and completion
    are one program, run against the tests."""
    pattern: str = ""
    last: bool = False
    """Take the last match instead of the first."""
    ignore: tuple[str, ...] = ()
    """Regular expressions taken out of both answers before they are compared."""


JUDGED = Reading(name="judge", how="judge")


class Protocol(Record):
    """One way of asking."""

    name: str
    source: str
    """Who asks like this."""
    sources: tuple[str, ...] = ()
    """Benchmarks it is for; empty for all."""
    template: Literal["chat", "none"]
    """none: the prompt goes to the model as it stands."""
    question: Mapping[str, str]
    """The prompt by kind of problem (answer, code, open), `{prompt}` being the problem's own text."""
    shots: Shots | None = None
    temperature: float = Field(ge=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(gt=0)
    stop: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = Field(default=(JUDGED,), min_length=1)
    """The first makes pass@k; each further one a score under its own name."""

    @property
    def params(self) -> Params:
        """As a sampler takes them."""
        return Params(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, stop=self.stop)


def protocol_name(name: str, protocol: Protocol | None, changed: Mapping[str, Any], belongs: Sequence[Any]) -> str:
    """What a score carries: the name, keys that were changed, and a hash of `belongs` and the protocol itself."""
    said = f"({', '.join(f'{key}={value}' for key, value in changed.items())})" if changed else ""
    parts = [*belongs] if protocol is None else [*belongs, protocol.model_dump(mode="json", exclude=NAMING)]
    return f"{name}{said}@{fingerprint(parts)[:DIGITS]}"
