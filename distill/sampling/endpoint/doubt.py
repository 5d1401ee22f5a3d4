"""Doubt: is one request refused, or everything?

A prompt longer than the server's context, or one its filter dislikes, gets a 400 like a wrong model's
name does. So when nothing was answered yet, or many were refused in a row, a short question with
the same parameters is asked: whoever answers that refused the request for what it says.
Statuses that speak of the caller and not of the request (a key, a model, an address) need no question.
"""

import asyncio
from collections.abc import Awaitable, Callable

from distill.sampling.endpoint.client import RefusedError

OF_A_REQUEST = (400, 413, 422)
"""Statuses that may be about what one request says."""
IN_A_ROW = 16
"""Refusals without an answer between them after which the question is asked again."""


class Doubt:
    """What is known of it. Lives on one event loop."""

    def __init__(self) -> None:
        self._row, self._answers = 0, False
        self._asking = asyncio.Lock()

    def answered(self) -> None:
        """Something was answered whole."""
        self._row, self._answers = 0, True

    async def settle(self, refusal: RefusedError, ask: Callable[[], Awaitable[object]]) -> bool:
        """Whether one request alone was refused; `ask` puts the short question."""
        if refusal.status not in OF_A_REQUEST:
            return False
        self._row += 1
        async with self._asking:
            if self._answers and self._row < IN_A_ROW:
                return True
            try:
                await ask()
            except RefusedError:
                return False
            self.answered()
            return True
