r"""Algebra server: says whether two LaTeX answers are equal, with math-verify and sympy.

Speaks the protocol of `distill.judge.servers`; imports nothing of this package. The process
that is asked loads the libraries once and never computes: it forks children that do, one
after another. A child is killed at the deadline, by the kernel at its limit of CPU time
(SIGPROF, which no Python code need run for), or when it outgrows its memory, and is replaced
after some hundred answers, so that nothing sympy remembers piles up. One that dies is
replaced and the question asked once more; then it is `undecided`.

math-verify's numeric comparison rounds absolutely, which makes all tiny numbers equal
(math-verify issue 14), and its parser falls back to the first number it finds. Both are
undone here: numbers are compared exactly or relative to their size, and a number read out of
a text that is no number is not an answer.
"""

import json
import os
import re
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 0.9
"""Per question: on MATH test against another row's answer, math-verify takes 0.65 s at most."""
ANSWERS_PER_CHILD = 300
DIGITS = 30
"""Decimal digits to which two irrational numbers must agree."""
COMMANDS_OF_NUMBERS = re.compile(
    r"frac|sqrt|times|cdot|div|pi|e|i|binom|log|ln|exp|(?:arc)?(?:sin|cos|tan)|cot|sec|csc|infty|pm|mp"
)
"""Words that can stand in a number; with any other in the text, a number read from it is a piece of it."""
Parse = Callable[..., Any]
Verify = Callable[..., bool]
Answer = dict[str, str]

WORD = re.compile(r"[A-Za-z]+")


class Child:
    """A forked process that answers questions."""

    def __init__(self, parse: Parse, verify: Verify) -> None:
        asked, ask = os.pipe()
        answered, answer = os.pipe()
        self.answers = 0
        self.process = os.fork()
        if self.process == 0:
            try:
                os.close(ask)  # so that it ends when its maker does
                os.close(answered)
                answer_questions(asked, answer, parse, verify)
            finally:
                os._exit(0)
        os.close(asked)
        os.close(answer)
        self.ask, self.answered = ask, answered

    def put(self, line: bytes, seconds: float) -> Answer | None:
        """The answer, a timeout, or None when the child died of something else."""
        os.write(self.ask, line)  # the asker's size guard keeps questions below a pipe's atomic size
        heard = b""
        deadline = time.monotonic() + seconds
        while not heard.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.answered], [], [], left)[0]:
                self.end()
                return {"status": "timeout", "why": f"no answer within {seconds:g} s"}
            read = os.read(self.answered, 1 << 16)
            if not read:
                spent = os.WTERMSIG(self.end()) == signal.SIGPROF
                return {"status": "timeout", "why": f"no answer within {CPU_SECONDS:g} CPU s"} if spent else None
            heard += read
        self.answers += 1
        answer: Answer = json.loads(heard)
        return answer

    def end(self) -> int:
        """Kill and reap it; its exit status."""
        os.kill(self.process, signal.SIGKILL)
        os.close(self.ask)
        os.close(self.answered)
        return os.waitpid(self.process, 0)[1]


def serve() -> None:
    """Answer questions until the asker closes its end."""
    from math_verify import parse, verify

    replies = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.write(replies, b"ready\n")
    child = Child(parse, verify)
    for line in sys.stdin.buffer:
        answer = None
        for _ in range(2):
            answer = child.put(line, json.loads(line)["seconds"])
            if answer is None or answer["status"] == "timeout":
                child = Child(parse, verify)
            if answer is not None:
                break
        if child.answers >= ANSWERS_PER_CHILD:
            child.end()
            child = Child(parse, verify)
        answer = answer or {"status": "undecided", "why": "took down the algebra server twice"}
        os.write(replies, json.dumps(answer).encode() + b"\n")
    child.end()


def answer_questions(asked: int, answered: int, parse: Parse, verify: Verify) -> None:
    """Child's side: one question after another, each with its own CPU time."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    golds: dict[str, list[Any]] = {}
    with os.fdopen(asked, "rb") as lines:
        for line in lines:
            ask = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            try:
                if ask["gold"] not in golds:
                    golds[ask["gold"]] = read(ask["gold"], parse)
                answer = judge(golds[ask["gold"]], ask, parse, verify)
            except Exception as error:  # noqa: BLE001 - any failure of a library on strange input is one outcome
                answer = {"status": "undecided", "why": f"{type(error).__name__}: {error}"[:300]}
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(answered, json.dumps(answer).encode() + b"\n")


def judge(gold: list[Any], ask: Answer, parse: Parse, verify: Verify) -> Answer:
    """Correct or wrong, or what the asker wants to hear of a side that cannot be read."""
    if not gold:
        return {"status": ask["gold_unread"], "why": f"the gold answer {ask['gold'][:80]!r} cannot be read"}
    said = read(ask["said"], parse)
    if not said:
        return {"status": ask["said_unread"], "why": "not readable as mathematics"}
    equal = verify(gold, said, timeout_seconds=None, raise_on_error=True)
    if equal and exactly_different(gold[0], said[0]):
        return {"status": "wrong", "why": "equal only after rounding"}
    return {"status": ask["equal"] if equal else "wrong", "why": "by algebra"}


def read(text: str, parse: Parse) -> list[Any]:
    """Parsed candidates of one answer; empty when it cannot be read, or only a piece of it was.

    math-verify adds the text itself, which says nothing: equal texts never come here.
    """
    candidates = parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=True)
    parsed = [each for each in candidates if not isinstance(each, str)]
    if parsed and is_number(parsed[0]) and not all(map(COMMANDS_OF_NUMBERS.fullmatch, WORD.findall(text))):
        return []
    return parsed


def is_number(value: Any) -> bool:
    """True for sympy numbers and for constant expressions."""
    return bool(getattr(value, "is_number", False))


def exactly_different(gold: Any, said: Any) -> bool:
    """True when both are numbers and differ, however little."""
    import sympy

    if not (is_number(gold) and is_number(said)):
        return False
    left, right = (sympy.nsimplify(side, rational=True) for side in (gold, said))
    if left.is_Rational and right.is_Rational:
        return bool(left != right)
    size = abs(sympy.N(left, DIGITS))
    return bool(abs(sympy.N(left - right, DIGITS)) > size * sympy.Float(10) ** (5 - DIGITS))


if __name__ == "__main__":
    serve()
