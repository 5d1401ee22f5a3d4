"""Retry: which failures may pass, how long to wait after one, and how many retries are afforded.

Full jitter as in Brooker, "Exponential Backoff and Jitter" (AWS, 2015). The budget is a token bucket
as in Finagle's RetryBudget: a retry is paid for by an answer, so that a server in trouble is not
buried under repetitions.
"""

import asyncio
import contextlib
import random
import time
from email.utils import parsedate_to_datetime
from typing import Literal

BACKOFF, BACKOFF_CAP = 0.5, 60.0
"""Seconds: the first wait is drawn from 0..0.5, the next from 0..1, and so on up to the cap."""
BUDGET_START, BUDGET_MOST, BUDGET_RATE = 64.0, 512.0, 1.0
"""Retries in hand at first and at most, and how many come a second without any answer."""

Trouble = Literal["busy", "down", "broken"]
"""busy: the server says, or shows by its silence, that it has too much to do; down: it was not reached, so nothing
was asked of it; broken: what came is no whole answer."""


class PassingError(Exception):
    """An attempt failed in a way that may pass.

    `wait` is what the server asked for, in seconds; `status` is 0 when it said none.
    """

    def __init__(self, why: str, trouble: Trouble = "broken", wait: float | None = None, status: int = 0) -> None:
        super().__init__(why)
        self.trouble, self.wait, self.status = trouble, wait, status

    @property
    def refused(self) -> bool:
        """The server said at once that it is too much: it has not worked on it."""
        return self.trouble == "busy" and self.status > 0


class RetryBudget:
    """At most one retry an answer, and one a second, beyond what is in hand at first."""

    def __init__(self) -> None:
        self._left, self._at = BUDGET_START, time.monotonic()

    def answered(self) -> None:
        """An answer pays for a retry."""
        self._left = min(BUDGET_MOST, self._left + 1.0)

    async def spend(self) -> None:
        """Pay for one retry, waiting until it can be afforded."""
        while True:
            now = time.monotonic()
            self._left = min(BUDGET_MOST, self._left + (now - self._at) * BUDGET_RATE)
            self._at = now
            if self._left >= 1.0:
                self._left -= 1.0
                return
            await asyncio.sleep((1.0 - self._left) / BUDGET_RATE)


def backoff(attempt: int) -> float:
    """Seconds to wait after the attempt of this number, 0 the first."""
    return random.uniform(0.0, min(BACKOFF_CAP, BACKOFF * 2.0 ** min(attempt, 16)))


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number, or a date; None for neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    with contextlib.suppress(ValueError, OverflowError):
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None
