"""Pace: how many completions one server is asked for at once.

Additive increase, multiplicative decrease (Chiu and Jain, 1989). What the config allows is
tried at once; a server that says it is too much halves it, once for all calls sent before.
It grows back by one a round of answers, and eight times slower near the number that was too much
(the plateau of CUBIC, RFC 9438, in its simplest form): every probe beyond it costs a refused call.
"""

import time

NEAR, SLOWLY = 0.75, 8.0
"""Share of the number that was too much from which growth slows down, and by what."""


class Pace:
    """The window of one server, in completions."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._window, self._too_much = float(most), float("inf")
        self._cut = -float("inf")

    @property
    def window(self) -> int:
        """Completions it may be asked for at once."""
        return int(self._window)

    def answered(self, count: int) -> None:
        """So many completions came."""
        slow = SLOWLY if self._window >= NEAR * self._too_much else 1.0
        self._window = min(float(self.most), self._window + count / (slow * self._window))

    def too_much(self, sent: float) -> bool:
        """The server refused, or did not finish, a call sent at this monotonic time; True when that is news."""
        if sent <= self._cut:
            return False
        self._too_much = self._window
        self._window = max(1.0, self._window / 2.0)
        self._cut = time.monotonic()
        return True
