"""Program server: runs one untrusted program after another, each in forked children of its own.

Started as `python -I -S` with an empty environment, so that it holds next to no modules and
a fork costs little. Speaks the protocol of `distill.judge.servers`; imports nothing of this
package but its siblings. Program and checks live in two children behind the walls of
`walls.py`, with a wire between them (`proxy.py`); the verdict comes down a pipe that only the
checks hold: output and exit status of the program count for nothing.

Checks that make objects of the program's own classes, or hand it functions, cannot use the
wire. They run beside the program (`in-process`), which can then find the secret that makes a
verdict by walking frames, or patch what the checks use.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from . import proxy, selftest, walls

UNCROSSABLE = "uncrossable"
MOST_DESCRIPTORS = 1024
MOST_REPORTED = 300
"""Characters of an error message passed on."""
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def serve(requests: int, replies: int, *, walled: bool) -> None:
    """Answer questions until the asker closes its end. Without walls when told so."""
    missing = _missing() if walled else None
    if missing:
        os.write(replies, f"unavailable {missing}\n".encode())
        return
    gc.freeze()  # children share these pages instead of copying them
    os.write(replies, b"ready\n")
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            answer = run(json.loads(line), (requests, replies), walled=walled)
            os.write(replies, json.dumps(answer).encode() + b"\n")


def run(ask: dict[str, Any], ours: tuple[int, int], *, walled: bool) -> dict[str, str]:
    """One verdict, and how the program was kept apart from its checks."""
    if ask["calls"] is not None:
        answer = run_children(ask, ours, walled=walled, apart=True)
        if answer["status"] != UNCROSSABLE:
            return {**answer, "isolation": "proxy" if walled else "none"}
    answer = run_children(ask, ours, walled=walled, apart=False)
    return {**answer, "isolation": "in-process" if walled else "none"}


def run_children(ask: dict[str, Any], ours: tuple[int, int], *, walled: bool, apart: bool) -> dict[str, str]:
    """Fork, wait for the verdict or the deadline, kill whatever is left, reap."""
    secret = os.urandom(16).hex()
    inlet, outlet = os.pipe()
    near, far = socket.socketpair() if apart else (None, None)
    program = None
    if near is not None and far is not None:
        program = os.fork()
        if program == 0:
            keep_only(far.fileno())
            program_main(ask, far.fileno(), walled=walled)
        far.close()
    child = os.fork()
    if child == 0:
        os.close(inlet)
        for descriptor in ours:
            os.close(descriptor)
        child_main(ask, secret, outlet, near.fileno() if near is not None else None, walled=walled)
    os.close(outlet)
    if near is not None:
        near.close()
    said = listen(inlet, time.monotonic() + ask["wall_seconds"])
    os.close(inlet)
    ends = [end(process) for process in (child, program) if process is not None]
    if said == f"passed {secret}":
        return {"status": "correct", "why": ""}
    if said == f"{UNCROSSABLE} {secret}":
        return {"status": UNCROSSABLE, "why": ""}
    if said is None or any(cpu >= ask["cpu_seconds"] or number == signal.SIGXCPU for cpu, number in ends):
        limit = f"{ask['cpu_seconds']} CPU s or {ask['wall_seconds']} s"
        return {"status": "timeout", "why": f"did not finish within {limit}"}
    if said.startswith("failed "):
        return {"status": "wrong", "why": said[len("failed ") :]}
    return {"status": "wrong", "why": "ended before the checks did"}


def end(process: int) -> tuple[float, int]:
    """Kill and reap a child: the CPU seconds it took, and the signal that ended it or 0."""
    kill(process)
    _, status, usage = os.wait4(process, 0)
    return usage.ru_utime + usage.ru_stime, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def keep_only(line: int) -> None:
    """Close everything but the standard three, which lead nowhere, and one descriptor."""
    os.closerange(3, line)
    os.closerange(line + 1, MOST_DESCRIPTORS)


def listen(inlet: int, deadline: float) -> str | None:
    """The child's one line, an empty text when it ended without one, None when the deadline passed."""
    heard = b""
    poll = select.poll()
    poll.register(inlet, select.POLLIN)
    while not heard.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        read = os.read(inlet, 4096)
        if not read:
            return ""
        heard += read
        if len(heard) > 4096:
            return ""
    return heard.decode("utf-8", "replace").rstrip("\n")


def kill(child: int) -> None:
    """End the child and its session; either may be gone already."""
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            end(child, signal.SIGKILL)


def confine(ask: dict[str, Any], *, walled: bool) -> None:
    """What a child does before anything of the program or its checks runs."""
    os.setsid()
    walls.confine_resources(ask["cpu_seconds"], ask["memory_bytes"])
    if walled:
        walls.confine_calls()


def program_main(ask: dict[str, Any], line: int, *, walled: bool) -> None:
    """The program's child: answer calls until there are none."""
    try:
        confine(ask, walled=walled)
        proxy.answer_calls(ask["program"], line)
    finally:  # nothing this process says or leaves behind counts
        os._exit(0)


def child_main(ask: dict[str, Any], secret: str, outlet: int, line: int | None, *, walled: bool) -> None:
    """Run the checks, and the program too when there is no line to it; report, and leave without cleaning up."""
    try:
        confine(ask, walled=walled)
        if line is None:
            space: dict[str, Any] = {"__name__": "candidate"}
            exec(compile(ask["program"], "<program>", "exec"), space)
            check(ask, space)
        else:
            proxy.run_checks(ask, line)
        said = f"passed {secret}"
    except proxy.UncrossableError:
        said = f"{UNCROSSABLE} {secret}"
    except BaseException as error:  # noqa: BLE001 - whatever a program raises, SystemExit too, is its failure
        said = f"failed {type(error).__name__}: {error}".replace("\n", " ")[:MOST_REPORTED]
    os.write(outlet, said.encode("utf-8", "replace") + b"\n")
    os._exit(0)


def check(ask: dict[str, Any], space: dict[str, Any]) -> None:
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
    space["check"](lambda *args, **named: plain(function(*args, **named)))


def plain(value: Any) -> Any:
    """`value` if it is made of exact builtin types. Raises TypeError for anything that could lie about itself."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in (list, tuple, set, frozenset):
        for item in value:
            plain(item)
        return value
    if kind is dict:
        for key, item in value.items():
            plain(key)
            plain(item)
        return value
    raise TypeError(f"a result of type {kind.__name__} is not plain data")


def main(*, walled: bool) -> None:
    """Take the pipes out of the reach of print, close the rest, and serve."""
    asked, answered = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    sys.dont_write_bytecode = True
    serve(asked, answered, walled=walled)


def _missing() -> str | None:
    """Put up the walls and try them; what is missing, or None."""
    try:
        walls.confine_files()
    except walls.UnavailableError as error:
        return str(error)
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            walls.confine_resources(10, 1 << 30)
            walls.confine_calls()
            said = ", ".join(selftest.breaches())
            said = f"a wall against {said}" if said else "held"
        except BaseException as error:  # noqa: BLE001 - whatever happens here, the walls do not stand
            said = str(error) or type(error).__name__
        os.write(outlet, said.encode("utf-8", "replace"))
        os._exit(0)
    os.close(outlet)
    heard = os.read(inlet, 4096).decode("utf-8", "replace")
    os.close(inlet)
    os.waitpid(child, 0)
    return None if heard == "held" else heard or "a self-test that ends"
