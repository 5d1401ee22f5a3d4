"""Exchanges: a program is given stdin and must print what was expected, once a case.

Each case has a fresh child of the nursery with pipes for stdin and stdout. The comparison is
made here, in the server; the expected output never enters a process that runs programs.
White space at the ends of lines and empty lines at the end do not count. Numbers may be
spelled in another way, exactly and as decimals (the second chance of LiveCodeBench,
arXiv:2403.07974): 2.50 is 2.5, and 0.30000000000000004 is not 0.3. A line of numbers
alone may be spaced in any way; one with words keeps its layout.
What is not covered: problems with several right outputs, programs that ask back, stderr.
"""

import os
import re
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from . import wire
from .nursery import End, Nursery

MOST_OUTPUT = 8 << 20
SPARE_OUTPUT = 1 << 20
"""Bytes a program may print beyond four times what is expected, and never more than the above."""
READ_BYTES = 1 << 16
MOST_SAID = 2048
"""Bytes kept of what a program's child says about its failure."""
MOST_SHOWN = 60
"""Characters shown of a line that differs."""
MOST_SPELLED = 1024
"""Characters by which a line may be longer than four times the expected one and still be read."""
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Talk:
    """What came of one case."""

    output: bytes
    failure: bytes
    late: bool
    end: End


def run(ask: dict[str, Any], nursery: Nursery) -> dict[str, str]:
    """The verdict over all cases, up to the first that fails."""
    deadline = time.monotonic() + ask["wall_seconds"]
    for number, case in enumerate(ask["exchanges"], 1):
        most = min(MOST_OUTPUT, 4 * len(case["stdout"]) + SPARE_OUTPUT)
        talk = _talk(ask, case["stdin"].encode("utf-8", "surrogatepass"), nursery, most, deadline)
        if talk.late or talk.end.cpu_seconds >= ask["cpu_seconds"] or talk.end.signal == signal.SIGXCPU:
            limit = f"{ask['cpu_seconds']} CPU s, or all cases within {ask['wall_seconds']} s"
            return {"status": "timeout", "why": f"case {number}: did not finish within {limit}"}
        why = _trouble(talk, most) or difference(talk.output.decode("utf-8", "surrogateescape"), case["stdout"])
        if why:
            return {"status": "wrong", "why": f"case {number}: {why}"}
    return {"status": "correct", "why": ""}


def difference(said: str, expected: str) -> str:
    """Where the two outputs first differ, in words; empty when they agree."""
    mine, theirs = (text.rstrip().split("\n") for text in (said, expected))
    for number, (line, wanted) in enumerate(zip(mine, theirs, strict=False), 1):
        if not _same(line.rstrip(), wanted.rstrip()):
            return f"line {number}: {_shown(line)} where {_shown(wanted)} was expected"
    return "" if len(mine) == len(theirs) else f"{len(mine)} lines where {len(theirs)} were expected"


def _same(line: str, wanted: str) -> bool:
    if line == wanted:
        return True
    if len(line) > 4 * len(wanted) + MOST_SPELLED:  # splitting it would cost far more than it is worth
        return False
    mine, theirs = ([_number(token) for token in text.split()] for text in (line, wanted))
    if mine != theirs:
        return False
    numbers_alone = all(isinstance(token, Decimal) for token in theirs)
    return numbers_alone or re.sub(r"\S+", "", line) == re.sub(r"\S+", "", wanted)


def _number(token: str) -> Decimal | str:
    return Decimal(token) if NUMBER.fullmatch(token) else token


def _shown(line: str) -> str:
    line = line.rstrip().encode("utf-8", "replace").decode()
    return repr(line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}...")


def _trouble(talk: Talk, most: int) -> str:
    """What went wrong before there was an output to compare; empty when nothing did."""
    if len(talk.output) > most:
        return f"more than {most:,} bytes of output"
    if talk.end.signal:
        return f"ended by {signal.Signals(talk.end.signal).name}"
    if talk.end.code:
        return _failure(talk.failure) or f"exit status {talk.end.code}"
    return ""


def _failure(frame: bytes) -> str:
    """What the child said it raised: its own words, which decide nothing."""
    try:
        said = wire.parse(frame[wire.HEADER :])
        words = f"{said['error']}: {said['said']}".replace("\n", " ")[:300]
        return words.encode("utf-8", "replace").decode()
    except (wire.WireError, KeyError):
        return ""


def _talk(ask: dict[str, Any], stdin: bytes, nursery: Nursery, most: int, deadline: float) -> Talk:
    """One child: feed it and hear it at once, so that neither waits for the other."""
    near, far = socket.socketpair()
    child_in, ours_in = os.pipe()
    ours_out, child_out = os.pipe()
    nursery.start("exchange", [far.fileno(), child_in, child_out], ask)
    far.close()
    os.close(child_in)
    os.close(child_out)
    try:
        wire.send(near.fileno(), {"setup": ask["setup"], "program": ask["program"]})
    except wire.WireError:  # too large a program; its child waits for it in vain and says so by its exit status
        near.shutdown(socket.SHUT_WR)
    heard = {ours_out: bytearray(), near.fileno(): bytearray()}
    late = _pump(stdin, ours_in, heard, {ours_out: most, near.fileno(): MOST_SAID}, deadline)
    end = nursery.end()
    output, failure = (bytes(each) for each in heard.values())
    os.close(ours_out)
    near.close()
    return Talk(output, failure, late, end)


def _pump(stdin: bytes, to: int, heard: dict[int, bytearray], most: dict[int, int], deadline: float) -> bool:
    """Write `stdin` to one descriptor and read the others to their ends; True when the deadline passed.

    Stops when one says more than it may. Closes `to`.
    """
    os.set_blocking(to, False)
    left, open_ = memoryview(stdin), set(heard)
    poll = select.poll()
    poll.register(to, select.POLLOUT)
    for descriptor in heard:
        poll.register(descriptor, select.POLLIN)
    feeding = True
    try:
        while open_ and all(len(said) <= most[descriptor] for descriptor, said in heard.items()):
            seconds = deadline - time.monotonic()
            ready = poll.poll(seconds * 1000) if seconds > 0 else []
            if not ready:
                return True
            for descriptor, _ in ready:
                if descriptor == to:
                    with suppress(BrokenPipeError):  # it reads no more, which is its own affair
                        left = left[os.write(to, left[:READ_BYTES]) :]
                        if left:
                            continue
                    poll.unregister(to)
                    os.close(to)
                    feeding = False
                elif not _hear(descriptor, heard[descriptor]):
                    poll.unregister(descriptor)
                    open_.discard(descriptor)
        return False
    finally:
        if feeding:
            os.close(to)


def _hear(descriptor: int, said: bytearray) -> bool:
    """Read what is there; False at the end."""
    try:
        read = os.read(descriptor, READ_BYTES)
    except ConnectionResetError:  # it left without reading all it was sent
        return False
    said += read
    return bool(read)
