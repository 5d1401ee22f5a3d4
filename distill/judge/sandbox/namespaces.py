"""Namespaces: a layer more where the kernel grants it, never needed.

The server goes on as process 1 of process, network and IPC namespaces of its own: there is
no network device, no other process has a number, and when process 1 ends the kernel ends all
that is left. Users other than root need a user namespace for it, in which they stay who they
are. Default Docker and Ubuntu 24.04 refuse; the reason is reported and the other walls stand
alone. Tried once in a child before the server commits to it; costs nothing per program.
Not covered: no mount namespace, since Landlock already bounds what can be read.
"""

import ctypes
import os
from contextlib import suppress

from . import walls

NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
MOST_DESCRIPTORS = 1024
ENTERED = "namespaces"


def enter() -> str:
    """Go on inside, or stay; says which, with the reason. The process that was called waits outside for the end."""
    probe = os.fork()
    if probe == 0:
        os._exit(_unshare(os.geteuid(), os.getegid()))
    refused = os.waitstatus_to_exitcode(os.waitpid(probe, 0)[1])
    if refused:
        return f"no {ENTERED} ({os.strerror(refused) if refused > 0 else 'the attempt was killed'})"
    _unshare(os.geteuid(), os.getegid())
    inner = os.fork()
    if inner:
        _relay(inner)
    walls.die_with_parent()
    return ENTERED


def _unshare(user: int, group: int) -> int:
    """Leave the namespaces of the parent; the number of the error, or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = NEW_PID | NEW_NET | NEW_IPC | NEW_UTS | (NEW_USER if user else 0)
    if libc.unshare(flags) != 0:
        return ctypes.get_errno()
    if user:
        try:
            for name, line in (
                ("uid_map", f"{user} {user} 1"),
                ("setgroups", "deny"),
                ("gid_map", f"{group} {group} 1"),
            ):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(line)
        except OSError as error:
            return error.errno or 1
    return 0


def _relay(inner: int) -> None:
    """Outside: hold nothing, wait for process 1, end with it."""
    os.closerange(0, MOST_DESCRIPTORS)
    with suppress(OSError):
        os.waitpid(inner, 0)
    os._exit(0)
