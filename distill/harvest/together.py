"""Together: several teachers speak at once, each in a thread of its own, and are heard as they answer.

One alone is read where it stands, without a thread. A teacher that is gone ends its own part and
no other's; anything else that goes wrong ends all of them.
"""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol, runtime_checkable

from distill.errors import LostError
from distill.sampling.protocols import Answered, Request, Sampler

AHEAD = 4
"""Answers of each teacher that may wait to be stored."""
LOOKS = 0.2
"""Seconds between looks at whether anybody still listens."""


@runtime_checkable
class Hushed(Protocol):
    """A sampler that may be waiting for somebody else for long."""

    def hush(self) -> None:
        """Have whoever samples now end at once. May be called from any thread."""


def together(
    parts: Sequence[tuple[str, Sampler, Iterator[Request]]],
) -> Generator[tuple[str, Answered | LostError], None, None]:
    """Every answer with the name of its teacher, whose last word may be that it is gone."""
    if len(parts) == 1:
        name, sampler, requests = parts[0]
        try:
            for answered in sampler.sample(requests):
                yield name, answered
        except LostError as error:
            yield name, error
        return
    hall = _Hall(len(parts))
    try:
        for part in parts:
            hall.begin(*part)
        yield from hall.heard()
    finally:
        hall.close()


class _Hall:
    """Where they speak."""

    def __init__(self, size: int) -> None:
        self._said: queue.SimpleQueue[tuple[str, Answered | BaseException | None]] = queue.SimpleQueue()
        self._seats = threading.Semaphore(AHEAD * size)
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="teacher")
        self._speaking = 0
        self._futures: list[Future[None]] = []
        self._hushed: list[Hushed] = []

    def begin(self, name: str, sampler: Sampler, requests: Iterator[Request]) -> None:
        """Let one more speak."""

        def ended(last: "Future[None]") -> None:  # in the hearing thread where it ended at once: must never wait
            self._said.put((name, last.exception()))

        self._speaking += 1
        if isinstance(sampler, Hushed):
            self._hushed.append(sampler)
        self._futures.append(self._threads.submit(self._speak, name, sampler, requests))
        self._futures[-1].add_done_callback(ended)

    def heard(self) -> Iterator[tuple[str, Answered | LostError]]:
        """What is said, until all have ended."""
        while self._speaking:
            name, said = self._said.get()
            if isinstance(said, Answered):
                self._seats.release()
            if isinstance(said, Answered | LostError):
                yield name, said
            elif said is not None:
                raise said
            self._speaking -= not isinstance(said, Answered)

    def close(self) -> None:
        """Nobody listens any more: each ends when it would ask for the next request, or be heard, or at once."""
        self._over.set()
        while wait(self._futures, timeout=0).not_done:
            for sampler in self._hushed:  # again and again: one may only now begin to wait
                sampler.hush()
            wait(self._futures, timeout=LOOKS)
        self._threads.shutdown()

    def _speak(self, name: str, sampler: Sampler, requests: Iterator[Request]) -> None:
        with contextlib.closing(_answers(sampler, self._while_heard(requests))) as answers:
            for answered in answers:
                if not self._say(name, answered):
                    return

    def _while_heard(self, requests: Iterator[Request]) -> Iterator[Request]:
        while not self._over.is_set():
            request = next(requests, None)
            if request is None:
                return
            yield request

    def _say(self, name: str, answered: Answered) -> bool:
        """False when nobody listens."""
        while not self._over.is_set():
            if self._seats.acquire(timeout=LOOKS):
                self._said.put((name, answered))
                return True
        return False


def _answers(sampler: Sampler, requests: Iterator[Request]) -> Generator[Answered, None, None]:
    """A generator whatever the sampler returns: closing it ends the sampler's own blocks in this thread."""
    yield from sampler.sample(requests)
