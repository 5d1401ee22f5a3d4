"""Program server: runs one untrusted program after another, each in forked children of its own.

Started as `python -I -S` with an empty environment, so that it holds next to no modules and
a fork costs little. Speaks the protocol of `distill.judge.servers`; imports nothing of this
package but its siblings. Programs live in children of the nursery (`nursery.py`), which
never saw a check; checks in a child of this process; between them is a wire (`proxy.py`), or
pipes for programs that read stdin (`exchanges.py`). All are behind the walls of `walls.py`. The
verdict comes down a pipe that only the checks hold, or is made here: output and exit status of
a program that is called count for nothing. Checks that cannot use the wire run `beside.py`.
"""

import gc
import json
import os
import platform
import select
import signal
import socket
import sys
import time
from typing import Any

from . import beside, exchanges, namespaces, nursery, proxy, selftest, walls, wire
from .nursery import End, Nursery

UNCROSSABLE = "uncrossable"
MOST_HEARD = 4096


def main(*, walled: bool, namespaced: bool) -> None:
    """Take the pipes out of the reach of print, put up the walls, say which stand, and serve."""
    asked, answered = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    sys.dont_write_bytecode = True
    layers = "none"
    if walled:
        layer = namespaces.enter() if namespaced else "no namespaces (switched off)"
        try:
            version = put_up()
        except walls.UnavailableError as missing:
            os.write(answered, f"unavailable {missing}\n".encode())
            return
        layers = f"Landlock {version}, seccomp, {layer}"
    young = Nursery(walled=walled, closing=(asked, answered))
    gc.freeze()  # children share these pages instead of copying them
    os.write(answered, f"ready {layers}\n".encode())
    with os.fdopen(asked, "rb") as lines:
        for line in lines:
            answer = run(json.loads(line), young, walled=walled)
            os.write(answered, json.dumps(answer).encode() + b"\n")


def put_up() -> int:
    """Put up the walls and try them; the version of Landlock. Raises UnavailableError naming what is missing."""
    version = walls.confine_files()
    walls.drop_capabilities()
    walls.filter_program(platform.machine())
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            nursery.confine(10, 1 << 30, walled=True)
            said = ", ".join(selftest.breaches())
            said = f"a wall against {said}" if said else "held"
        except BaseException as error:  # noqa: BLE001 - whatever happens here, the walls do not stand
            said = str(error) or type(error).__name__
        os.write(outlet, said.encode("utf-8", "replace"))
        os._exit(0)
    os.close(outlet)
    heard = os.read(inlet, MOST_HEARD).decode("utf-8", "replace")
    os.close(inlet)
    os.waitpid(child, 0)
    if heard != "held":
        raise walls.UnavailableError(heard or "a self-test that ends")
    return version


def run(ask: dict[str, Any], young: Nursery, *, walled: bool) -> dict[str, str]:
    """One verdict, and how the program was kept apart from its checks."""
    if "exchanges" in ask:
        return {**exchanges.run(ask, young), "isolation": "proxy" if walled else "none"}
    if ask["calls"] is not None:
        answer = run_apart(ask, young, walled=walled)
        if answer is not None:
            return {**answer, "isolation": "proxy" if walled else "none"}
    return {**run_beside(ask, young), "isolation": "in-process" if walled else "none"}


def run_apart(ask: dict[str, Any], young: Nursery, *, walled: bool) -> dict[str, str] | None:
    """Checks in a child of this process, the program in one of the nursery's. None when the wire cannot carry it."""
    secret = os.urandom(16).hex()
    inlet, outlet = os.pipe()
    near, far = socket.socketpair()
    young.start("answer", [far.fileno()], ask)
    far.close()
    child = os.fork()
    if child == 0:
        _check(ask, secret, outlet, near.fileno(), walled=walled)
    os.close(outlet)
    near.close()
    said = listen(inlet, time.monotonic() + ask["wall_seconds"])
    os.close(inlet)
    ends = [nursery.end(child), young.end()]
    if said == f"{UNCROSSABLE} {secret}":
        return None
    return _verdict(ask, secret, said, ends)


def run_beside(ask: dict[str, Any], young: Nursery) -> dict[str, str]:
    """Checks and program in one child of the nursery's."""
    secret = os.urandom(16).hex()
    near, far = socket.socketpair()
    young.start("beside", [far.fileno()], ask)
    far.close()
    try:
        wire.send(near.fileno(), {**ask, "secret": secret})
        said = listen(near.fileno(), time.monotonic() + ask["wall_seconds"])
    except (OSError, wire.WireError) as error:
        said = beside.failed(error)
    near.close()
    return _verdict(ask, secret, said, [young.end()])


def listen(inlet: int, deadline: float) -> str | None:
    """The child's one line, an empty text when it ended without one, None when the deadline passed."""
    heard = b""
    poll = select.poll()
    poll.register(inlet, select.POLLIN)
    while not heard.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        read = os.read(inlet, MOST_HEARD)
        if not read:
            return ""
        heard += read
        if len(heard) > MOST_HEARD:
            return ""
    return heard.decode("utf-8", "replace").rstrip("\n")


def _check(ask: dict[str, Any], secret: str, outlet: int, line: int, *, walled: bool) -> None:
    """The checks' child."""
    try:
        nursery.keep_only(outlet, line)
        nursery.confine(ask["cpu_seconds"], ask["memory_bytes"], walled=walled)
        proxy.run_checks(ask, line)
        said = beside.passed(secret)
    except proxy.UncrossableError:
        said = f"{UNCROSSABLE} {secret}"
    except BaseException as error:  # noqa: BLE001 - a check may raise anything, and the program make it
        said = beside.failed(error)
    beside.report(outlet, said)


def _verdict(ask: dict[str, Any], secret: str, said: str | None, ends: list[End]) -> dict[str, str]:
    if said == beside.passed(secret):
        return {"status": "correct", "why": ""}
    late = any(each.cpu_seconds >= ask["cpu_seconds"] or each.signal == signal.SIGXCPU for each in ends)
    if said is None or late:
        limit = f"{ask['cpu_seconds']} CPU s or {ask['wall_seconds']} s"
        return {"status": "timeout", "why": f"did not finish within {limit}"}
    if said.startswith("failed "):
        return {"status": "wrong", "why": said[len("failed ") :]}
    return {"status": "wrong", "why": "ended before the checks did"}
