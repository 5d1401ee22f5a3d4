"""Session: an event loop in its own thread, so that deadlines run and servers work while the caller judges.

Each call is tried until it is whole or `tries` is spent. An attempt that reached no server is not
counted, nor one refused as too much while others were answered: the server works, the turn will
come. When something cannot pass, no further call is sent and those under way are finished. A call that is
refused for what it says is one thing; that everything is refused is another (`Doubt`).
"""

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from distill.errors import LostError, UserError
from distill.sampling.endpoint.client import Answer, Call, Client, RefusedError
from distill.sampling.endpoint.config import EndpointConfig
from distill.sampling.endpoint.doubt import Doubt
from distill.sampling.endpoint.key import Key
from distill.sampling.endpoint.pool import Pool, Say, Server
from distill.sampling.endpoint.retry import PassingError, RetryBudget, backoff

Result = TypeVar("Result")


class Session:
    """Connections, queue and clock of one sampler while it speaks."""

    def __init__(self, config: EndpointConfig, key: Key | None, servers: list[Server], say: Say) -> None:
        """`servers` is added to where a file names new ones."""
        self._config, self._key, self._servers, self._say = config, key, servers, say
        self._budget = RetryBudget()
        self.doubt = Doubt()
        self._answered = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._client: Client | None = None
        self._pool: Pool | None = None
        self._opened: concurrent.futures.Future[None] | None = None

    def open(self) -> None:
        """Raises UserError when no server is there."""
        self._thread.start()
        self._opened = asyncio.run_coroutine_threadsafe(self._open(), self._loop)
        self._opened.result()

    def give_up(self) -> None:
        """End the wait for servers: whoever opens is told by a CancelledError."""
        if self._opened is not None:
            self._opened.cancel()

    async def _open(self) -> None:
        self._client = Client(self._config, self._key)
        self._pool = Pool(self._servers, self._client.gone, self._config, self._say)
        await self._pool.start()

    def close(self) -> None:
        """Drop what is under way, then the connections."""
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        await _cancel(self._tasks)
        if self._pool is not None:
            await self._pool.close()
        if self._client is not None:
            await self._client.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What a coroutine returns, waited for."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @contextlib.contextmanager
    def works(self) -> Iterator["Works"]:
        """Whoever leaves this block leaves no work of its own behind."""
        works = Works(self._loop, self._tasks)
        try:
            yield works
        finally:
            self.run(_cancel(works.tasks))

    def end(self, why: UserError) -> UserError:
        """Send nothing more; returns why. Called on the loop."""
        assert self._pool is not None, "opened"
        return self._pool.end(why)

    async def persist(self, call: "Call[Answer]") -> tuple[Answer, Server]:
        """The answer and who gave it. Raises UserError when it will not come, RefusedError when a server says so."""
        assert self._pool is not None, "opened"
        assert self._client is not None, "opened"
        avoid: Server | None = None
        sent_before = tried = 0
        while True:
            server = await self._pool.take(call.n, avoid)
            sent, answered = time.monotonic(), self._answered
            server.retried += sent_before > 0
            try:
                answer = await self._client.attempt(server.url, call)
            except PassingError as error:
                failure = error
                self._pool.failed(server, failure, sent)
            except RefusedError as error:
                server.failed += 1
                raise RefusedError(str(error), error.status, server.url) from None
            except UserError as error:
                server.failed += 1
                raise UserError(f"endpoint {server.url}: {error}") from None
            else:
                self._answered += 1
                self._budget.answered()
                self.doubt.answered()
                self._pool.answered(server, call.n)
                return answer, server
            finally:
                self._pool.leave(server, call.n)
            sent_before, avoid = sent_before + 1, server
            works = failure.refused and self._answered > answered
            tried += not (works or failure.trouble == "down")
            if tried >= self._config.tries:
                last = f"no whole answer in {tried} tries, the last: {failure}"
                raise LostError(f"endpoint {server.url}: {call.name}: {last}")
            if self._pool.over is not None:
                raise self._pool.over
            if failure.trouble != "down":
                await self._budget.spend()
                await asyncio.sleep(backoff(sent_before - 1))

    async def everywhere(self, call: "Call[Any]", suffix: str) -> None:
        """Have every server answer the call, at its url without `suffix`. UserError naming one that will not."""
        assert self._client is not None, "opened"
        for server in self._servers:
            url = server.url.removesuffix(suffix)
            for tried in range(1, self._config.tries + 1):
                try:
                    await self._client.attempt(url, call)
                    break
                except PassingError as error:
                    if tried == self._config.tries:
                        raise UserError(f"endpoint {url}{call.path}: {call.name}: {error}") from None
                    await asyncio.sleep(backoff(tried - 1))
                except (RefusedError, UserError) as error:
                    raise UserError(f"endpoint {url}{call.path}: {call.name}: {error}") from None


class Works:
    """Coroutines one caller has on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, everyone: set[asyncio.Task[Any]]) -> None:
        self._loop, self._everyone = loop, everyone
        self.tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, Any], then: Callable[[Any], object]) -> None:
        """Run it; `then` gets what it returns or raises, on the loop."""
        self._loop.call_soon_threadsafe(self._begin, work, then)

    def _begin(self, work: Coroutine[Any, Any, Any], then: Callable[[Any], object]) -> None:
        task = self._loop.create_task(work)
        self.tasks.add(task)
        self._everyone.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self.tasks.discard(task)
            self._everyone.discard(task)
            if not task.cancelled():
                then(task.exception() or task.result())

        task.add_done_callback(done)


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    going = list(tasks)
    for task in going:
        task.cancel()
    await asyncio.gather(*going, return_exceptions=True)
