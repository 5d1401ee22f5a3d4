"""Protocols: ways of asking, each a piece of data with a hash; `protocol` says what belongs to one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from distill.errors import UserError, did_you_mean
from distill.records import Message, Problem
from distill.selection import Ask
from evals.protocols.chat import R1, ZERO_SHOT_CHAT
from evals.protocols.lm_eval import TASKS
from evals.protocols.protocol import JUDGED, Protocol, Reading, protocol_name
from evals.protocols.reading import Reader
from evals.protocols.shots import before, fill, shot_files, tests_of

PROTOCOLS = {protocol.name: protocol for protocol in (R1, ZERO_SHOT_CHAT, *TASKS)}
TASK_OF = {
    "gsm8k": "gsm8k",
    "math": "minerva_math",
    "math500": "minerva_math",
    "humaneval": "humaneval",
    "mbpp": "mbpp",
}
"""What `lm-eval` alone means, by benchmark."""
LM_EVAL = "lm-eval"
NAMES = (*PROTOCOLS, LM_EVAL)

__all__ = [
    "JUDGED",
    "LM_EVAL",
    "NAMES",
    "PROTOCOLS",
    "R1",
    "Protocol",
    "Reader",
    "Reading",
    "asks",
    "greedy_by_itself",
    "protocol_for",
    "protocol_name",
    "shot_files",
]


def greedy_by_itself(name: str | None) -> bool:
    """Whether a protocol asks for the likeliest tokens; without one, a bench does."""
    return name is None or name == LM_EVAL or PROTOCOLS[name].temperature == 0


def protocol_for(name: str, sources: Iterable[str]) -> Protocol:
    """The protocol of a name for problems of these sources. Raises UserError where there is none."""
    found = sorted(set(sources))
    if name == LM_EVAL:
        tasks = {TASK_OF.get(source) for source in found}
        if len(tasks) != 1 or None in tasks:
            raise UserError(
                f"protocol {name!r}: problems of {', '.join(found)}; expected one of {', '.join(TASK_OF)} at a time"
            )
        name = f"{LM_EVAL}:{tasks.pop()}"
    if name not in PROTOCOLS:
        raise UserError(f"protocol {name!r}: unknown{did_you_mean(name, NAMES)}; there are {', '.join(NAMES)}")
    protocol = PROTOCOLS[name]
    others = [source for source in found if protocol.sources and source not in protocol.sources]
    if others:
        raise UserError(f"protocol {name!r}: is for {', '.join(protocol.sources)}, got problems of {', '.join(others)}")
    return protocol


def asks(protocol: Protocol, data: Path) -> Ask:
    """How it puts a problem. Raises UserError when its worked examples are not in the data directory."""
    first = before(protocol.shots, data)
    role: Literal["user", "text"] = "user" if protocol.template == "chat" else "text"

    def ask(problem: Problem) -> tuple[Message, ...]:
        if problem.kind not in protocol.question:
            raise UserError(f"protocol {protocol.name!r}: has no words for a problem of kind {problem.kind!r}")
        text = first(problem) + fill(protocol.question[problem.kind], _fields(problem))
        return (Message(role=role, content=text),)

    return ask


def _fields(problem: Problem) -> dict[str, str]:
    from distill.problems.benchmarks.mbpp import TESTS_FOLLOW

    text, _, listed = problem.prompt.partition(TESTS_FOLLOW)
    check = problem.tests.check if problem.tests is not None and isinstance(problem.tests.check, tuple) else ()
    shown = [one for one in check if isinstance(one, str) and one in listed]
    return {"prompt": problem.prompt, "text": text, "tests": tests_of(shown)}
