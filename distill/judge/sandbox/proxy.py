"""Proxy: the checks in one process, the program in another, calls between them over a wire.

The checks see functions that look like the program's; the program sees calls and holds one
socket. What it returns is plain data, made anew on this side; the verdict is written where
it cannot reach. Arguments the program changed in place are changed here too.
"""

import builtins
from collections.abc import Callable
from typing import Any

from . import wire


class UncrossableError(Exception):
    """The checks hand the program something that is not plain data, so they must run beside it."""


class ProgramError(Exception):
    """An exception of the program's own type, or an answer that is none."""


def answer_calls(line: int) -> None:
    """Program's side: be sent it, load it, then answer calls until the checks hang up."""
    sent = wire.receive(line)
    space: dict[str, Any] = {"__name__": "candidate"}
    try:
        exec(compile(sent["setup"], "<setup>", "exec"), space)
        exec(compile(sent["program"], "<program>", "exec"), space)
    except BaseException as error:  # noqa: BLE001 - whatever a program raises, SystemExit too, is its failure
        wire.send(line, failure(error))
        return
    wire.send(line, {"value": None})
    while True:
        asked = wire.receive(line)
        try:
            if asked["name"] not in space:
                raise NameError(f"the program defines no {asked['name']}")
            arguments = wire.decode(asked["arguments"])
            value = wire.encode(space[asked["name"]](*arguments, **wire.decode(asked["named"])))
            changed = [
                [place, after]
                for place, (before, argument) in enumerate(zip(asked["arguments"], arguments, strict=True))
                if type(argument) in (list, dict, set) and (after := wire.encode(argument)) != before
            ]
            wire.send(line, {"value": value, "changed": changed})
        except BaseException as error:  # noqa: BLE001 - as above
            wire.send(line, failure(error))


def run_checks(ask: dict[str, Any], line: int) -> None:
    """Checks' side. Raises what a check raises, EOFError when the program is gone, UncrossableError."""
    wire.send(line, {"setup": ask["setup"], "program": ask["program"]})
    _result(wire.receive(line), ())
    space: dict[str, Any] = {name: __import__(name) for name in ask["modules"]}
    space["__name__"] = "checks"
    exec(compile(ask["setup"], "<setup>", "exec"), space)
    space |= {name: _proxy(name, line) for name in ask["calls"]}
    checks = ask["check"]
    if isinstance(checks, list):
        for number, statement in enumerate(checks):
            exec(compile(statement, f"<check {number}>", "exec"), space)
        return
    exec(compile(checks, "<check>", "exec"), space)
    space["check"](_proxy(ask["entry_point"], line))


def _proxy(name: str, line: int) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            frame = {"name": name, "arguments": [wire.encode(each) for each in arguments], "named": wire.encode(named)}
        except wire.WireError as error:
            raise UncrossableError(str(error)) from error
        wire.send(line, frame)
        return _result(wire.receive(line), arguments)

    call.__name__ = name
    return call


def _result(answer: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
    """The value of an answer, or the exception it stands for."""
    if "error" in answer:
        kind = getattr(builtins, str(answer["error"]), None)
        said = str(answer.get("said", ""))
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                raise kind(said)
            except TypeError:  # a type that wants more than words, UnicodeDecodeError say
                raise ProgramError(f"{answer['error']}: {said}") from None
        raise ProgramError(f"{answer['error']}: {said}")
    if "value" not in answer:
        raise ProgramError("an answer without a value")
    for place, after in answer.get("changed", ()):
        _update(arguments[place], wire.decode(after))
    return wire.decode(answer["value"])


def _update(old: Any, new: Any) -> None:
    if type(old) is not type(new):
        raise ProgramError("an argument that changed its type")
    if isinstance(old, list):
        old[:] = new
    else:
        old.clear()
        old.update(new)


def failure(error: BaseException) -> dict[str, str]:
    """An exception as the wire says it."""
    return {"error": type(error).__name__, "said": str(error)[:300]}
