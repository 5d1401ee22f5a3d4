"""Arena: where attacks are let loose, and what is looked at afterwards.

Makes a copy of the sandbox that any user may read, a file all may read, a path all may write and a listener; so what
keeps an attack from them is a wall and not a permission. The copy's path is in the command line of
every process of it, so whatever is left of them can be told from the rest of the machine.
"""

import dataclasses
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.judge import programs
from distill.judge.servers import Crew, Kind, LateError
from distill.records import Tests
from distill.sandbox import Sandbox
from tests.attacks import REFUSED, Attack, attacks

NOBODY = 65534
SECONDS = 3.0
BECOME = (
    "import os, sys; os.setgroups([]); os.setgid({user}); os.setuid({user}); "
    "os.execve({python!r}, [{python!r}, '-I', '-S', '-c', {boot!r}, sys.argv[1]], {{}})"
)


@dataclass(frozen=True)
class Arena:
    """Prey and a copy of the sandbox."""

    folder: Path
    secret: Path
    target: Path
    listener: socket.socket

    def attacks(self) -> list[Attack]:
        """The corpus, aimed here."""
        return attacks(SECRET=str(self.secret), TARGET=str(self.target), PORT=self.listener.getsockname()[1])

    def kind(self, *, namespaced: bool = True, user: int | None = None) -> Kind:
        """A program server of the copy; as another user when told, which takes root and an interpreter for them."""
        here = dataclasses.replace(programs.server(Sandbox(), namespaced=namespaced), script=self.folder)
        if user is None:
            return here
        become = BECOME.format(user=user, python=readable_python(user), boot=here.flags[-1])
        return dataclasses.replace(here, flags=("-I", "-S", "-c", become))

    def leftovers(self) -> list[str]:
        """What attacks left: changed prey, files, visitors, sockets, shared memory."""
        found = [] if self.secret.read_text() == "s3cret" else ["the secret was changed"]
        found += [f"file {path}" for path in self.target.parent.iterdir()]
        places = (Path("/tmp/.distill-self-test"), *Path("/dev/shm").glob("*distill-attack*"))
        found += [f"file {path}" for path in places if path.exists()]
        try:
            self.listener.accept()
            found.append("a visitor of the listener")
        except TimeoutError:
            pass
        found += [f"socket {line}" for line in _lines("/proc/net/unix") if "distill-attack" in line]
        for kind in ("shm", "msg", "sem"):
            found += [f"{kind} {line}" for line in _lines(f"/proc/sysvipc/{kind}") if line.split()[0] == "1234"]
        return found

    def processes(self) -> list[int]:
        """Processes of the copy, also those that nobody waits for."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and str(self.folder).encode() in _bytes(entry / "cmdline"):
                found.append(int(entry.name))
        return found


@contextmanager
def arena() -> Iterator[Arena]:
    """A fresh one, removed afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="distill-arena-") as name,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        listener.settimeout(0.05)
        top = Path(name)
        shutil.copytree(Path(programs.__file__).parent / "sandbox", top / "judge" / "sandbox")
        (top / "prey").mkdir()
        (top / "secret").write_text("s3cret")
        for path in (top, *top.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (top / "prey").chmod(0o777)
        yield Arena(top / "judge", top / "secret", top / "prey" / "target", listener)


def ask(crew: Crew, tests: Tests, code: str, cpu_seconds: int = 1) -> dict[str, Any]:
    """What the server says of a program; `undecided` when it was taken down, `late` when it had to be killed."""
    question = programs.question(tests, programs.candidate_source(tests, code, code), SECONDS)
    try:
        answer = crew.ask({**question, "cpu_seconds": cpu_seconds}, 3 * SECONDS)
    except LateError:
        return {"status": "late", "why": "", "isolation": ""}
    return answer or {"status": "undecided", "why": "", "isolation": ""}


def trouble(attack: Attack, crew: Crew) -> str:
    """What an attack achieved; empty when it was held."""
    before = ask(crew, attack.tests, attack.right)
    if before["status"] != "correct":
        return f"before it: {before}"
    found = ask(crew, attack.tests, attack.program)
    if found["status"] not in ("wrong", "timeout") or (found["status"] == "timeout" and attack.kind != "hog"):
        return f"{found}"
    if attack.kind == "escape" and not re.search(REFUSED, found["why"]):
        return f"an attack that slips: {found}"
    after = ask(crew, attack.tests, f"{attack.right}  # afterwards")
    return "" if after["status"] == "correct" else f"after it: {after}"


def descendants(process: int) -> list[int]:
    """Every process below one, with it."""
    found = [process]
    for each in found:
        try:
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        except OSError:
            continue
    return found


def cpu_seconds(process: int) -> float:
    """What a process, those below it and all they have reaped took of the processors, in ticks of 10 ms as a rule."""
    ticks = 0
    for each in descendants(process):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_kb(process: int) -> int:
    """What a process holds in memory, kB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def readable_python(user: int) -> str | None:
    """An interpreter that another user can run, of our version or at least 3.11; None when there is none."""
    needed = "import sys, ctypes, json, socket, decimal; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, os.path.realpath(sys.executable), "/usr/local/bin/python3", "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [python, "-I", "-S", "-c", needed],
                check=False,
                capture_output=True,
                cwd="/",
                user=user,
                group=user,
                extra_groups=[],
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()[1:] if os.path.exists(path) else []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
