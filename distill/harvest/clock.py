"""Clock: how long a harvest has run, all its attempts together, kept across kills.

A ledger of its own, `clock/`: every ten seconds a line says how long this attempt has run, whatever
the sampler does meanwhile, so that a kill forgets ten seconds at most. Counts time on the wall,
because that is what GPUs are paid for.
Does not count what happens between attempts.
"""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from distill.errors import UserError
from distill.ledger import Ledger, read_ledger
from distill.records import Record

CLOCK = "clock"
EVERY = 10.0
"""Seconds between lines."""


class Tick(Record):
    """How far one attempt has come."""

    attempt: int
    seconds: float
    """Since it began, setting up included."""
    setup: float
    """Of these, before anything could be asked: loading a model, say."""


class Clock:
    """Runs while its block lasts. The one writer of its ledger."""

    def __init__(self, out: Path, begun: float | None = None) -> None:
        """`begun`: monotonic time at which the attempt began, where that was earlier."""
        self._begun = time.monotonic() if begun is None else begun
        self._setup = time.monotonic() - self._begun
        self._ledger = Ledger(out / CLOCK, batch=1)
        attempts: dict[int, Tick] = {tick.attempt: tick for tick in read_ledger(out / CLOCK, Tick)}
        self._attempt = len(attempts)
        self._before = sum(tick.seconds for tick in attempts.values())
        self._setups = sum(tick.setup for tick in attempts.values())
        self._over = threading.Event()
        self._trouble: UserError | None = None
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    @property
    def here(self) -> float:
        """Seconds of this attempt."""
        return time.monotonic() - self._begun

    @property
    def seconds(self) -> float:
        """Seconds of all attempts."""
        return self._before + self.here

    @property
    def setup(self) -> float:
        """Of these, those in which nothing could be asked yet."""
        return self._setups + self._setup

    def check(self) -> None:
        """Raise what kept the clock from writing: a full disk, say."""
        if self._trouble is not None:
            raise self._trouble

    def __enter__(self) -> Self:
        self._tick()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        try:
            if self._trouble is None:
                self._tick()
        except UserError:
            if kind is None:  # else what went wrong first is told
                raise
        finally:
            self._ledger.close(complete=kind is None)

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            try:
                self._tick()
            except UserError as trouble:  # told in the thread that harvests, by `check`
                self._trouble = trouble
                return

    def _tick(self) -> None:
        self._ledger.append(Tick(attempt=self._attempt, seconds=round(self.here, 3), setup=round(self._setup, 3)))
        self._ledger.flush()
