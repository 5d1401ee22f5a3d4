"""Breaker: when a server is left alone, and when it is tried again.

Closed lets calls through, open none, half one (Nygard, "Release It!", 2007). A server that refuses
connections opens it at once, since its calls can go elsewhere; otherwise it takes a row of
failures without an answer between them. While it is open, a cheap question (`GET /models`)
asks whether the server is back.
"""

from typing import Literal

OPENS_AFTER = 8
"""Failures in a row. With 30% of answers failing at random, that is one false alarm in 15,000 calls."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds until the question is asked, doubled each time it opens again without an answer between."""

State = Literal["closed", "open", "half"]


class Breaker:
    """The state of one server."""

    def __init__(self) -> None:
        self.state: State = "closed"
        self.wait = FIRST_WAIT
        self.tried = False
        """In half: whether the one call is under way."""
        self._row = 0

    def answered(self) -> None:
        """A whole answer came."""
        self.state, self.wait, self._row = "closed", FIRST_WAIT, 0

    def failed(self, *, down: bool) -> bool:
        """An attempt failed; True when that opened it."""
        self._row += 1
        if self.state == "open" or not (down or self.state == "half" or self._row >= OPENS_AFTER):
            return False
        self.state = "open"
        return True

    def still_gone(self) -> None:
        """The question was not answered."""
        self.wait = min(LONGEST_WAIT, self.wait * 2.0)

    def back(self) -> None:
        """It was: let one call through."""
        self.state, self.tried, self.wait = "half", False, min(LONGEST_WAIT, self.wait * 2.0)
