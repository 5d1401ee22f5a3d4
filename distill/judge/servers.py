"""Servers: child processes that do what may hang, watched from outside.

One JSON line asks, one JSON line answers. The deadline is kept by the asker, who kills the
whole process group when it passes: no signal handler inside, so no C call can outlast it.
A server that dies twice on one question, and starts well in between, leaves that question
undecided; a server that does not start is an error of ours and never a verdict.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError

STARTUP_SECONDS = 120.0
"""A server that has not said `ready` by then will not: importing sympy takes 2 s idle, far more under load."""
READ_BYTES = 1 << 16
QUESTIONS_PER_SERVER = 20_000


class JudgeError(Exception):
    """The judge itself failed. Says nothing about any answer."""


class SandboxUnavailableError(UserError):
    """Programs cannot be kept in here; the message names the missing primitive and the way out."""


class LateError(Exception):
    """No answer by the deadline; the server has been killed."""


class DiedError(Exception):
    """The server ended without an answer."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of server is started."""

    name: str
    script: Path
    """What python runs, or the argument of the `-c` that ends the flags."""
    flags: tuple[str, ...]
    """Python flags: how much of this interpreter's surroundings it gets."""
    inherit_environment: bool


class Server:
    """One child process."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.process = subprocess.Popen(
            [sys.executable, *kind.flags, str(kind.script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=None if kind.inherit_environment else {},
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        self.buffer = b""
        self.asked = 0
        assert self.process.stdin is not None
        os.set_blocking(self.process.stdin.fileno(), False)
        try:
            ready = self._line(time.monotonic() + STARTUP_SECONDS)
        except (LateError, DiedError) as error:
            self.close()
            raise JudgeError(f"{kind.name} server: did not start ({type(error).__name__.lower()})") from error
        if ready.startswith(b"unavailable "):
            self.close()
            raise SandboxUnavailableError(
                f"sandbox for programs: {ready[len(b'unavailable ') :].decode()} is missing on this machine; run where "
                "there is Linux 5.13 or newer with Landlock and seccomp, or, in a container you can lose, give "
                "--sandbox none and --accept-unsandboxed"
            )
        word, _, said = ready.partition(b" ")
        self.layers = said.decode("utf-8", "replace")
        """What a program server says stands around its programs."""
        if word != b"ready":
            self.close()
            raise JudgeError(f"{kind.name} server: said {ready[:80]!r} instead of 'ready'")

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """One question. Raises LateError or DiedError, after which the server is gone."""
        assert self.process.stdin is not None
        deadline = time.monotonic() + seconds
        self.asked += 1
        try:
            _write_all(self.process.stdin.fileno(), json.dumps(question).encode() + b"\n", deadline)
            answer = json.loads(self._line(deadline))
        except BrokenPipeError as error:
            self.close()
            raise DiedError from error
        except (LateError, DiedError):
            self.close()
            raise
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        """Kill it with all it started in its session, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _line(self, deadline: float) -> bytes:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise LateError
            read = os.read(descriptor, READ_BYTES)
            if not read:
                raise DiedError
            self.buffer += read
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line


class Crew:
    """Servers of one kind, started when first needed and kept for the next question."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.idle: list[Server] = []
        self.lock = threading.Lock()
        self.started = 0
        self.layers = ""
        """What stands around the programs of the server last started."""

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """The answer; None when the question took down two servers. Raises LateError when time is up."""
        for _ in range(2):
            server = self._take()
            try:
                answer = server.ask(question, seconds)
            except DiedError:
                continue
            if server.asked >= QUESTIONS_PER_SERVER:
                server.close()  # recycled: whatever piled up in it goes with it
                return answer
            with self.lock:
                self.idle.append(server)
            return answer
        return None

    def prepare(self) -> None:
        """Start a server now, so that what is wrong shows before anything is paid for."""
        server = self._take()
        with self.lock:
            self.idle.append(server)

    def close(self) -> None:
        """End every idle server; a crew can be asked again afterwards."""
        with self.lock:
            servers, self.idle = self.idle, []
        for server in servers:
            server.close()

    def _take(self) -> Server:
        with self.lock:
            if self.idle:
                return self.idle.pop()
            self.started += 1
        server = Server(self.kind)
        self.layers = server.layers
        return server


def _write_all(descriptor: int, data: bytes, deadline: float) -> None:
    """Raises LateError when the reader does not keep up until the deadline."""
    while data:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([], [descriptor], [], left)[1]:
            raise LateError
        data = data[os.write(descriptor, data) :]
