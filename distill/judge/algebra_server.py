r"""Algebra server: says whether two LaTeX answers are equal, with math-verify and sympy.

Speaks the protocol of `distill.judge.servers`; imports nothing of this package, and
math-verify only here, so that a judge who never needs algebra never pays for it.
math-verify's own timeouts are off: whoever asked keeps the time and kills.

Its numeric comparison rounds absolutely, which makes all tiny numbers equal (math-verify
issue 14), and its parser falls back to the first number it finds. Both are undone here:
numbers are compared exactly or relative to their size, and a number read out of a text
that is no number is not an answer.
"""

import json
import os
import re
import resource
import sys
from collections.abc import Callable
from typing import Any

MEMORY_BYTES = 2 << 30
DIGITS = 30
"""Decimal digits to which two irrational numbers must agree."""
COMMANDS_OF_NUMBERS = re.compile(
    r"frac|sqrt|times|cdot|div|pi|e|i|binom|log|ln|exp|(?:arc)?(?:sin|cos|tan)|cot|sec|csc|infty|pm|mp"
)
"""Words that can stand in a number; with any other in the text, a number read from it is a piece of it."""
Parse = Callable[..., Any]
Verify = Callable[..., bool]

WORD = re.compile(r"[A-Za-z]+")


def serve() -> None:
    """Answer questions until the asker closes its end."""
    from math_verify import parse, verify

    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    replies.write(b"ready\n")
    golds: dict[str, list[Any]] = {}
    for line in sys.stdin.buffer:
        ask = json.loads(line)
        try:
            if ask["gold"] not in golds:
                golds[ask["gold"]] = read(ask["gold"], parse)
            answer = judge(golds[ask["gold"]], ask, parse, verify)
        except Exception as error:  # noqa: BLE001 - any failure of a library on strange input is one outcome
            answer = {"status": "undecided", "why": f"{type(error).__name__}: {error}"[:300]}
        replies.write(json.dumps(answer).encode() + b"\n")


def judge(gold: list[Any], ask: dict[str, str], parse: Parse, verify: Verify) -> dict[str, str]:
    """Correct, wrong, unparsed or gold_bad."""
    if not gold:
        return {"status": "gold_bad", "why": f"the gold answer {ask['gold'][:80]!r} cannot be read"}
    said = read(ask["said"], parse)
    if not said:
        return {"status": "unparsed", "why": "not readable as mathematics"}
    equal = verify(gold, said, timeout_seconds=None, raise_on_error=True)
    if equal and exactly_different(gold[0], said[0]):
        return {"status": "wrong", "why": "equal only after rounding"}
    return {"status": "correct" if equal else "wrong", "why": "by algebra"}


def read(text: str, parse: Parse) -> list[Any]:
    """Parsed candidates of one answer; empty when it cannot be read, or only a piece of it was."""
    parsed: list[Any] = parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=True)
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
