"""Beside: checks and program in one process, for checks that cannot use the wire.

Such checks make objects of the program's own classes, or hand it functions. The program can
then find the secret that makes a verdict by walking frames, or patch what the checks use:
verdicts of this kind say `in-process`, and curate drops them unless told otherwise.
"""

import os
from typing import Any

from . import wire

MOST_REPORTED = 300
"""Characters of an error message passed on."""
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def run(line: int) -> None:
    """Load the program, run the checks, report."""
    ask = wire.receive(line)
    try:
        space: dict[str, Any] = {"__name__": "candidate"}
        exec(compile(ask["setup"], "<setup>", "exec"), space)
        exec(compile(ask["program"], "<program>", "exec"), space)
        _check(ask, space)
        said = passed(ask["secret"])
    except BaseException as error:  # noqa: BLE001 - whatever a program raises, SystemExit too, is its failure
        said = failed(error)
    report(line, said)


def passed(secret: str) -> str:
    """The line that says all checks held."""
    return f"passed {secret}"


def failed(error: BaseException) -> str:
    """The line that says what a check, or the program, raised."""
    return f"failed {type(error).__name__}: {error}".replace("\n", " ")[:MOST_REPORTED]


def report(descriptor: int, said: str) -> None:
    """Send the one line a run of checks ends with, and leave without cleaning up."""
    os.write(descriptor, said.encode("utf-8", "replace") + b"\n")
    os._exit(0)


def _check(ask: dict[str, Any], space: dict[str, Any]) -> None:
    """The problem's tests against the program's names. Raises when one fails."""
    checks = ask["check"]
    if isinstance(checks, list):
        for number, statement in enumerate(checks):
            exec(compile(statement, f"<check {number}>", "exec"), space)
        return
    if ask["entry_point"] not in space:
        raise NameError(f"the program defines no {ask['entry_point']}")
    function = space[ask["entry_point"]]
    exec(compile(checks, "<check>", "exec"), space)
    space["check"](lambda *args, **named: _plain(function(*args, **named)))


def _plain(value: Any) -> Any:
    """`value` if it is made of exact builtin types. Raises TypeError for anything that could lie about itself."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in (list, tuple, set, frozenset):
        for item in value:
            _plain(item)
        return value
    if kind is dict:
        for key, item in value.items():
            _plain(key)
            _plain(item)
        return value
    raise TypeError(f"a result of type {kind.__name__} is not plain data")
