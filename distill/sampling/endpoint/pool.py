"""Pool: several servers behind one queue.

A call waits until a server has room and goes to the one with most of it, in turn. Calls are served in the order they
came; one that failed prefers another server than the one it failed at. A server whose breaker is open is asked
every now and then whether it is back; one that asks for patience (Retry-After) is left alone for as long.
Where a file names the servers (urls.py) it is looked at now and then, and until one of them answers.
What is not covered: servers of unlike models, and sending one call to two servers to take the faster.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from distill.errors import LostError, UserError
from distill.sampling.endpoint.breaker import Breaker, State
from distill.sampling.endpoint.config import EndpointConfig
from distill.sampling.endpoint.pace import Pace
from distill.sampling.endpoint.retry import PassingError, backoff
from distill.sampling.endpoint.urls import addresses, half_written

Say = Callable[[str], None]
LOOKS = 5.0
"""Seconds between looks at a file of addresses."""


@dataclass(frozen=True, slots=True)
class Health:
    """One server, seen from here."""

    url: str
    state: State
    concurrency: int
    """Completions it may be asked for at once now."""
    in_flight: int
    """Completions it is asked for now."""
    ok: int
    """Calls answered whole."""
    failed: int
    """Calls that were not."""
    retried: int
    """Calls that had failed before, here or at another server."""
    waiting_until: float | None
    """Unix time until which it asked to be left alone; None when it did not."""
    tokens: int
    """Completion tokens it gave."""


class Server:
    """One address and what is known of it."""

    def __init__(self, url: str, concurrency: int) -> None:
        self.url, self.listed = url, True
        """Whether the table, or its file, names it now."""
        self.pace, self.breaker = Pace(concurrency), Breaker()
        self.in_flight = self.ok = self.failed = self.retried = self.tokens = 0
        self.paused_until = 0.0
        """Monotonic time."""
        self.met = False
        """Whether it was asked if it is there."""
        self.served = 0
        """Calls ever sent: of two with as much room, the one with fewer is asked."""
        self.refusals = 0
        """Times in a row that it refused a whole round of calls as too much."""

    @property
    def health(self) -> Health:
        """A picture of this moment."""
        left = self.paused_until - time.monotonic()
        until = time.time() + left if left > 0 else None
        counts = (self.in_flight, self.ok, self.failed, self.retried)
        return Health(self.url, self.breaker.state, self.pace.window, *counts, until, self.tokens)

    def room(self, now: float) -> int:
        """Completions it can be asked for on top, 0 when it takes none."""
        if not self.listed or self.breaker.state == "open" or self.paused_until > now:
            return 0
        if self.breaker.state == "half":
            return 0 if self.breaker.tried else 1
        return self.pace.window - self.in_flight


@dataclass(eq=False, slots=True)
class _Waiting:
    n: int
    avoid: Server | None
    server: "asyncio.Future[Server]"


class Pool:
    """The queue. Lives on one event loop; its servers outlive it."""

    def __init__(
        self, servers: list[Server], gone: Callable[[str], Awaitable[str]], config: EndpointConfig, say: Say
    ) -> None:
        """`gone` says why a server takes no calls, or nothing when it does. `servers` is added to."""
        self.servers, self._gone, self._config, self._say = servers, gone, config, say
        self._patience = config.patience
        self._looking: asyncio.Task[None] | None = None
        self._queue: deque[_Waiting] = deque()
        self._probes: dict[Server, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._lost_since: float | None = None
        self.over: UserError | None = None
        """Why no call is sent any more."""

    async def start(self) -> None:
        """Ask every server whether it is there. LostError when none is, of a file when patience is over."""
        if self._config.urls_file:
            await self._wait_for_one()
            self._looking = asyncio.create_task(self._look())
            return
        reasons = await asyncio.gather(*(self._gone(server.url) for server in self.servers))
        for server, why in zip(self.servers, reasons, strict=True):
            if why:
                self._open(server, why)
            else:
                self._there(server)
        if all(reasons):
            raise LostError(f"endpoint {self.servers[0].url}: {reasons[0]}; {self._none_is_there()}")

    async def _wait_for_one(self) -> None:
        until, told = time.monotonic() + self._patience, False
        while not await self._follow():
            if time.monotonic() > until:
                raise LostError(f"endpoint {self._config.urls_file}: {self._none_of_the_file()}")
            if not told:
                self._say(f"endpoint {self._config.urls_file}: {self._none_of_the_file()}; waiting")
            told = True
            await asyncio.sleep(min(LOOKS, self._patience / 4 + 0.01))

    def _none_of_the_file(self) -> str:
        named = sum(server.listed for server in self.servers)
        if named:
            return f"none of the {named} servers it names answers"
        return "it names no server" + (" (its last line has no end yet)" if half_written(self._config) else "")

    async def _look(self) -> None:
        """Follow the file while the harvest runs."""
        while self.over is None:
            await asyncio.sleep(LOOKS)
            if await self._follow():
                continue
            if self._lost_since is None:
                self._lost_since = time.monotonic()
            elif time.monotonic() - self._lost_since > self._patience:
                why = f"{self._none_of_the_file()}; no answer for {self._patience:g} s (patience)"
                self.end(LostError(f"endpoint {self._config.urls_file}: {why}"))

    async def _follow(self) -> bool:
        """Take servers in and let them go as the file says; whether one of them takes calls."""
        try:
            urls = addresses(self._config)
        except UserError as error:
            self.end(error)
            raise
        known = {server.url: server for server in self.servers}
        for server in self.servers:
            if server.listed and server.url not in urls:
                server.listed = False
                self._say(f"endpoint {server.url}: no longer in {self._config.urls_file}; it is asked nothing more")
        new = [known.get(url) or Server(url, self._config.concurrency) for url in urls]
        new = [server for server in new if server.url not in known or not server.listed or not server.met]
        reasons = await asyncio.gather(*(self._gone(server.url) for server in new))
        for server, why in zip(new, reasons, strict=True):
            if server not in self.servers:
                self.servers.append(server)
            server.listed = server.met = True
            probe = self._probes.get(server)
            if why and (probe is None or probe.done()):
                self._open(server, why)
            elif not why:
                self._there(server)
        self._serve()
        return any(server.listed and server.breaker.state != "open" for server in self.servers)

    def _none_is_there(self) -> str:
        others = len(self.servers) - 1
        return f"nor does any of the {others} others answer" if others else "is it serving?"

    async def take(self, n: int, avoid: Server | None = None) -> Server:
        """A server with room for `n` completions; whoever takes one gives it back with `leave`."""
        if self.over is not None:
            raise self.over
        waiting = _Waiting(n, avoid, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._serve()
        try:
            return await waiting.server
        except asyncio.CancelledError:
            if waiting.server.done() and not waiting.server.cancelled() and waiting.server.exception() is None:
                self.leave(waiting.server.result(), n)
            raise

    def leave(self, server: Server, n: int) -> None:
        """The call is over, however it went."""
        server.in_flight -= n
        if server.breaker.state == "half":
            server.breaker.tried = False
        self._serve()

    def answered(self, server: Server, n: int) -> None:
        """A call for `n` completions was answered whole."""
        if server.breaker.state != "closed":
            self._say(f"endpoint {server.url}: answers again")
        server.ok += 1
        server.pace.answered(n)
        server.breaker.answered()
        server.refusals = 0
        self._lost_since = None

    def failed(self, server: Server, failure: PassingError, sent: float) -> None:
        """A call sent at this monotonic time failed in a way that may pass."""
        server.failed += 1
        cut = failure.trouble == "busy" and server.pace.too_much(sent)
        if failure.wait is not None:
            self._ask_for_patience(server, failure, failure.wait)
        elif failure.refused:
            server.refusals += cut
            if server.refusals > 1:  # not one call too many, but none at all
                self._pause(server, backoff(server.refusals - 1))
        elif server.breaker.failed(down=failure.trouble == "down"):
            self._open(server, str(failure))

    def end(self, why: UserError) -> UserError:
        """Send nothing more: whoever waits is told why, the first reason if there are several."""
        self.over = self.over or why
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.server.done():
                waiting.server.set_exception(self.over)
        return self.over

    async def close(self) -> None:
        """Stop asking after servers that are gone."""
        if self._timer is not None:
            self._timer.cancel()
        going = [*self._probes.values(), *([] if self._looking is None else [self._looking])]
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    def _serve(self) -> None:
        """Give the first in the queue a server, and the next, while there is room."""
        now = time.monotonic()
        while self._queue and self.over is None:
            waiting = self._queue[0]
            if waiting.server.done():  # cancelled
                self._queue.popleft()
                continue
            server = self._choose(waiting, now)
            if server is None:
                return
            self._queue.popleft()
            server.in_flight += waiting.n
            server.served += 1
            server.breaker.tried = True
            waiting.server.set_result(server)

    def _choose(self, waiting: _Waiting, now: float) -> Server | None:
        rooms = [(server.room(now), server) for server in self.servers]
        # A call for more than a window holds goes to a server that does nothing else.
        fitting = [(room, server) for room, server in rooms if room >= waiting.n or (room > 0 and not server.in_flight)]
        others = [(room, server) for room, server in fitting if server is not waiting.avoid]
        return max(others or fitting, key=lambda pair: (pair[0], -pair[1].served), default=(0, None))[1]

    def _ask_for_patience(self, server: Server, failure: PassingError, wait: float) -> None:
        now = time.monotonic()
        if now + wait > server.paused_until + 1.0 or server.paused_until <= now < now + wait:
            self._say(f"endpoint {server.url}: {failure}; asks to wait {wait:,.0f} s (Retry-After)")
        self._pause(server, wait)
        if all(other.paused_until - now > self._patience for other in self.servers if other.listed):
            asks = f"asks to wait {wait:,.0f} s; patience is {self._patience:g}"
            self.end(LostError(f"endpoint {server.url}: {failure}, {asks}"))

    def _pause(self, server: Server, wait: float) -> None:
        """Leave a server alone, and go on when the first of those left alone may be asked again."""
        server.paused_until = max(server.paused_until, time.monotonic() + wait)
        self._resume()

    def _resume(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = time.monotonic()
        later = [server.paused_until for server in self.servers if server.paused_until > now]
        self._timer = asyncio.get_running_loop().call_later(min(later) - now, self._resume) if later else None
        self._serve()

    def _open(self, server: Server, why: str) -> None:
        server.breaker.state = "open"
        if all(other.breaker.state == "open" for other in self.servers if other.listed) and self._lost_since is None:
            self._lost_since = time.monotonic()
        self._say(f"endpoint {server.url}: {why}; left alone until it answers")
        self._probes[server] = asyncio.create_task(self._watch(server, why))

    def _there(self, server: Server) -> None:
        """It takes calls, so not all are gone; calls it then fails are counted as tries."""
        if server.breaker.state == "open":
            server.breaker.back()
        if server.listed:
            self._lost_since = None

    async def _watch(self, server: Server, why: str) -> None:
        """Ask after a server until it is back, or until all have been gone for too long."""
        while True:
            await asyncio.sleep(server.breaker.wait)
            gone = await self._gone(server.url)
            if self._lost_since is not None and time.monotonic() - self._lost_since > self._patience:
                self.end(LostError(f"endpoint {server.url}: {why}; no answer for {self._patience:g} s (patience)"))
                return
            if not gone or not server.listed:
                self._there(server)
                self._serve()
                return
            server.breaker.still_gone()
