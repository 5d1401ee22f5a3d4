"""Walls: what the kernel keeps a program from, without root and without a dependency.

Landlock (kernel 5.13 or newer) leaves the standard library and the shared libraries to be
read and nothing else; a seccomp filter lets through the system calls listed here and
refuses all others: no socket, no new process or thread, no signal to anyone, no file
opened for writing, no limit raised. Both are called through ctypes. The numbers are those
of linux/seccomp.h, linux/landlock.h and the system call tables of Linux 6.12.
Not covered: names and sizes of files can be looked up (`stat`), though not their content.
The table of aarch64 was written from the same sources and has not been run.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from functools import lru_cache

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER = 2
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
"""Rights over files that a Landlock version knows; from version 5 on one more, device ioctls."""
NEWEST_RIGHTS = (1 << 16) - 1
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_READ_SEARCH = 1 << 2

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, EACCES, ENOTTY, ENOSYS = 1, 13, 25, 38
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets in what a filter sees of a call."""
X32_BIT = 0x40000000
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000
"""Flags that open a file for more than reading; the last is O_TMPFILE's own bit."""
FCNTL_COMMANDS = (0, 1, 2, 3, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC; F_SETOWN among the others would send signals."""


@dataclass(frozen=True, slots=True)
class Calls:
    """System call numbers of one architecture."""

    audit: int
    """AUDIT_ARCH_* of linux/audit.h."""
    opens: tuple[tuple[int, int], ...]
    """Calls that open files, each with the position of its flags."""
    fcntl: int
    ioctl: int
    allowed: tuple[int, ...]
    x32: bool = False
    """True where a second table of numbers exists beside the first."""


CLONE3 = 435
MACHINES = {
    # read write close fstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn stat lstat
    # pread64 readv writev access pipe select sched_yield mremap madvise dup dup2 pause nanosleep getitimer alarm
    # setitimer getpid exit uname getdents getcwd readlink gettimeofday getrlimit getrusage sysinfo times getuid getgid
    # geteuid getegid getppid sigaltstack gettid time futex sched_getaffinity getdents64 clock_gettime clock_getres
    # clock_nanosleep exit_group newfstatat readlinkat faccessat pselect6 ppoll set_robust_list dup3 pipe2 getrandom
    # membarrier statx rseq close_range faccessat2
    "x86_64": Calls(
        audit=0xC000003E,
        opens=((257, 2), (2, 1)),
        fcntl=72,
        ioctl=16,
        allowed=(
            *(
                0,
                1,
                3,
                5,
                7,
                8,
                9,
                10,
                11,
                12,
                13,
                14,
                15,
                4,
                6,
                17,
                19,
                20,
                21,
                22,
                23,
                24,
                25,
                28,
                32,
                33,
                34,
                35,
                36,
            ),
            *(37, 38, 39, 60, 63, 78, 79, 89, 96, 97, 98, 99, 100, 102, 104, 107, 108, 110, 131, 186, 201, 202, 204),
            *(217, 228, 229, 230, 231, 262, 267, 269, 270, 271, 273, 292, 293, 318, 324, 332, 334, 436, 439),
        ),
        x32=True,
    ),
    # read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn getcwd dup dup3
    # faccessat pipe2 getdents64 readv writev pread64 pselect6 ppoll readlinkat newfstatat exit exit_group futex
    # set_robust_list nanosleep getitimer setitimer clock_gettime clock_getres clock_nanosleep sched_getaffinity
    # sched_yield sigaltstack times uname getrlimit getrusage gettimeofday getpid getppid getuid geteuid getgid getegid
    # gettid sysinfo mremap madvise getrandom membarrier statx rseq close_range faccessat2
    "aarch64": Calls(
        audit=0xC00000B7,
        opens=((56, 2),),
        fcntl=25,
        ioctl=29,
        allowed=(
            *(63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 17, 23, 24, 48, 59, 61, 65, 66, 67, 72, 73, 78),
            *(79, 93, 94, 98, 99, 101, 102, 103, 113, 114, 115, 123, 124, 132, 153, 160, 163, 165, 169, 172, 173, 174),
            *(175, 176, 177, 178, 179, 216, 233, 278, 283, 291, 293, 436, 439),
        ),
    ),
}


class UnavailableError(Exception):
    """A primitive is missing here; the message names it."""


def confine_files() -> int:
    """From now on this process and its children read the standard library and shared libraries, and no other file.

    Returns the version of Landlock. Raises UnavailableError when the kernel does not know it or has it switched off.
    """
    version = _syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION, missing="Landlock")
    handled = struct.pack("Q", FILE_RIGHTS.get(version, NEWEST_RIGHTS))
    ruleset = _syscall(LANDLOCK_CREATE_RULESET, handled, len(handled), 0, missing="Landlock")
    for folder in readable():
        place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", READ_FILE | READ_DIR, place)
        _syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0, missing="Landlock")
        os.close(place)
    _prctl(PR_SET_NO_NEW_PRIVS, 1, missing="no_new_privs")
    _syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0, missing="Landlock")
    os.close(ruleset)
    return version


def drop_capabilities() -> None:
    """Keep of root's powers (or those over fresh namespaces) the reading of others' files, which Landlock bounds."""
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(24)
    if _libc().capget(header, held) != 0:
        raise UnavailableError(f"capabilities ({os.strerror(ctypes.get_errno())})")
    kept = struct.unpack("6I", held.raw)[1] & CAP_DAC_READ_SEARCH
    if _libc().capset(header, struct.pack("6I", kept, kept, 0, 0, 0, 0)) != 0:
        raise UnavailableError(f"capabilities ({os.strerror(ctypes.get_errno())})")


def confine_calls() -> None:
    """From now on only the system calls of a program that computes. Raises UnavailableError without seccomp."""
    program = filter_program(platform.machine())
    steps = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(steps))
    _prctl(PR_SET_NO_NEW_PRIVS, 1, missing="no_new_privs")
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, missing="seccomp")


def confine_resources(cpu_seconds: int, memory_bytes: int) -> None:
    """Limits, soft and hard alike; the filter keeps even root from raising them. Dies with its parent, not dumpable."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    if sys.platform == "linux":
        die_with_parent()
        _prctl(PR_SET_DUMPABLE, 0, missing="non-dumpable processes")


def die_with_parent() -> None:
    """From now on this process is killed when the one that forked it ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, missing="parent-death signal")


def readable() -> list[str]:
    """Folders a program may read: the standard library and where shared libraries lie."""
    own = [os.path.dirname(os.__file__), f"{sys.base_prefix}/lib", f"{sys.base_exec_prefix}/{sys.platlibdir}"]
    folders = [*own, "/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


@lru_cache(maxsize=1)
def filter_program(machine: str) -> bytes:
    """The filter in classic BPF: what is not listed fails with EPERM, foreign architectures die.

    The server has it made before it forks, so that its children need not. Raises UnavailableError without a list.
    """
    calls = MACHINES.get(machine)
    if calls is None or sys.byteorder != "little":
        raise UnavailableError(f"a list of system calls for {machine}")
    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, calls.audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if calls.x32:
        steps += [(AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, KILL)]
    for number in calls.allowed:
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    for number, position in calls.opens:
        inside = [(LOAD, 0, 0, ARGUMENTS + 8 * position), (ANY_BIT, 0, 1, WRITING)]
        inside += [(RETURN, 0, 0, ERRNO | EACCES), (RETURN, 0, 0, ALLOW)]
        steps += [(EQUAL, 0, len(inside), number), *inside]
    inside = [(LOAD, 0, 0, ARGUMENTS + 8)]
    for command in FCNTL_COMMANDS:
        inside += [(EQUAL, 0, 1, command), (RETURN, 0, 0, ALLOW)]
    inside += [(RETURN, 0, 0, ERRNO | EPERM)]
    steps += [(EQUAL, 0, len(inside), calls.fcntl), *inside]
    steps += [(EQUAL, 0, 1, calls.ioctl), (RETURN, 0, 0, ERRNO | ENOTTY)]  # "not a terminal", which is true
    steps += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, ERRNO | ENOSYS)]  # the C library then tries clone, and is refused
    steps += [(RETURN, 0, 0, ERRNO | EPERM)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _syscall(*arguments: object, missing: str) -> int:
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    done: int = _libc().syscall(*wide)
    if done < 0:
        raise UnavailableError(f"{missing} ({os.strerror(ctypes.get_errno())})")
    return done


def _prctl(*arguments: object, missing: str) -> None:
    wide = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    wide += [ctypes.c_ulong(0)] * (5 - len(wide))
    if _libc().prctl(*wide) != 0:
        raise UnavailableError(f"{missing} ({os.strerror(ctypes.get_errno())})")
