"""Nursery: the process whose children run programs. It has never seen a question.

Forked by the server before its first question, so neither its memory nor that of its
children holds a check, an expected output or another program: frames, the garbage collector's
lists and raw memory have nothing to give away. It is told limits and handed descriptors; a
child reads its program from its own socket, after it has gone behind the walls.
The idea is Android's zygote; that it is kept ignorant is what is added here.
Not covered: a `beside` child holds the checks of its one question, and the secret that makes
its verdict; that is what `in-process` warns of.
"""

import atexit
import builtins
import gc
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from . import beside, proxy, walls, wire

MOST_DESCRIPTORS = 1024
ORDER_BYTES = 128
"""Every message between server and nursery is padded to this, so that a stream keeps them apart."""
END = b"end".ljust(ORDER_BYTES)


@dataclass(frozen=True, slots=True)
class End:
    """How a child ended."""

    cpu_seconds: float
    signal: int
    """What killed it, or 0."""
    code: int
    """Its exit status, or 0."""


class Nursery:
    """The server's side. One child at a time."""

    def __init__(self, *, walled: bool, closing: tuple[int, ...]) -> None:
        """Fork the nursery, which closes the descriptors `closing`."""
        self._control, theirs = socket.socketpair()
        if os.fork() == 0:
            for descriptor in (*closing, self._control.fileno()):
                os.close(descriptor)
            _tend(theirs, walled=walled)
        theirs.close()

    def start(self, role: str, descriptors: list[int], ask: dict[str, Any]) -> None:
        """Have a child started: `answer` and `beside` get a line, `exchange` a line, a stdin and a stdout."""
        order = {"role": role, "cpu_seconds": ask["cpu_seconds"], "memory_bytes": ask["memory_bytes"]}
        socket.send_fds(self._control, [json.dumps(order).encode().ljust(ORDER_BYTES)], descriptors)

    def end(self) -> End:
        """Kill the child if it still runs, reap it, and say how it ended."""
        self._control.sendall(END)
        return End(*json.loads(self._control.recv(ORDER_BYTES, socket.MSG_WAITALL)))


def end(process: int) -> End:
    """Kill a child with its session and reap it; either may be gone already."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(process, signal.SIGKILL)
    _, status, usage = os.wait4(process, 0)
    killed = os.WIFSIGNALED(status)
    return End(
        usage.ru_utime + usage.ru_stime,
        os.WTERMSIG(status) if killed else 0,
        0 if killed else os.waitstatus_to_exitcode(status),
    )


def keep_only(*descriptors: int) -> None:
    """Close everything but the standard three and these."""
    first = 3
    for descriptor in (*sorted(descriptors), MOST_DESCRIPTORS):
        os.closerange(first, descriptor)
        first = descriptor + 1


def confine(cpu_seconds: int, memory_bytes: int, *, walled: bool) -> None:
    """What a child does before anything of the program or its checks runs."""
    os.setsid()
    walls.confine_resources(cpu_seconds, memory_bytes)
    if walled:
        walls.confine_calls()


def _tend(control: socket.socket, *, walled: bool) -> None:
    """Fork children as told until the server is gone."""
    if sys.platform == "linux":
        walls.die_with_parent()
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # `site` would bring them, and is not loaded
    gc.freeze()
    child = 0
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, ORDER_BYTES, 3, socket.MSG_WAITALL)
        if not message:
            os._exit(0)
        if message == END:
            done = end(child)
            control.sendall(json.dumps([done.cpu_seconds, done.signal, done.code]).encode().ljust(ORDER_BYTES))
            continue
        child = os.fork()
        if child == 0:
            _live(json.loads(message), descriptors, walled=walled)
        for descriptor in descriptors:
            os.close(descriptor)


def _live(order: dict[str, Any], descriptors: list[int], *, walled: bool) -> None:
    """A child, from its first breath to its end."""
    try:
        line, *standard = descriptors
        for number, descriptor in enumerate(standard):
            os.dup2(descriptor, number)
        keep_only(line)
        confine(order["cpu_seconds"], order["memory_bytes"], walled=walled)
        if order["role"] == "answer":
            proxy.answer_calls(line)
        elif order["role"] == "beside":
            beside.run(line)
        else:
            os._exit(_exchange(line))
    finally:  # only a program that reads and prints gets here by a failure; of the others the status does not count
        os._exit(1)


def _exchange(line: int) -> int:
    """Run a program that reads stdin and prints; its exit status. What it raised goes down the line, for the reader."""
    sent = wire.receive(line)
    sys.argv = ["program"]
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = printed = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    main = sys.modules["__main__"] = ModuleType("__main__")
    status = 0
    try:
        exec(compile(sent["setup"], "<setup>", "exec"), main.__dict__)
        exec(compile(sent["program"], "<program>", "exec"), main.__dict__)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException as error:  # noqa: BLE001 - whatever a program raises is its failure
        wire.send(line, proxy.failure(error))
        status = 1
    with suppress(BaseException):  # what an interpreter does at its end: a program may count on it to print
        atexit._run_exitfuncs()
        main.__dict__.clear()
        sys.stdout.flush()
    with suppress(BaseException):
        printed.flush()
    return status & 0xFF
