"""Self-test: before the first program runs, a child behind the walls tries what they must prevent."""

import ctypes
import os
import resource
from collections.abc import Callable


def breaches() -> list[str]:
    """What was possible although it must not be. Called in a child behind the walls; leaves nothing behind."""
    found = []
    for name, attempt in ATTEMPTS.items():
        try:
            attempt()
        except (OSError, ValueError):  # setrlimit says ValueError where it is refused
            continue
        found.append(name)
    return found


def _socket() -> None:
    import _socket

    _socket.socket()


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _trace() -> None:
    if ctypes.CDLL(None).ptrace(0, 0, None, None) != 0:
        raise PermissionError


def _thread() -> None:
    import _thread

    try:
        _thread.start_new_thread(len, ("",))
    except RuntimeError as error:
        raise PermissionError from error


ATTEMPTS: dict[str, Callable[[], object]] = {
    "reading files": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "reading environments of processes": lambda: os.open("/proc/self/environ", os.O_RDONLY),
    "listing folders": lambda: os.listdir("/etc"),
    "writing files": lambda: os.open("/tmp/.distill-self-test", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600),
    "making folders": lambda: os.mkdir("/tmp/.distill-self-test"),
    "opening sockets": _socket,
    "forking": _fork,
    "starting threads": _thread,
    "running programs": lambda: os.execv("/bin/true", ["true"]),
    "sending signals": lambda: os.kill(os.getppid(), 0),
    "tracing": _trace,
    "memory files": lambda: os.memfd_create("x"),
    "raising limits": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1)),
}
"""What must fail, by name. An attempt that can succeed leaves nothing but what the process takes with it."""
