"""Service: many threads ask, one engine thread answers, token by token.

    with Service(engine) as service:
        for said in service.stream(job):
            ...

The engine runs in a thread of its own; nobody else touches it while the service is open.
Leaving the loop early, or dropping the stream, cancels what is left of the job. Knows no
HTTP, no text and no priorities: requests are served first come, first served.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Literal, Self

from distill.errors import UserError
from distill.sampling.engine.engine import Engine
from distill.sampling.engine.jobs import Job, RolledOut, Said, Ticket


class Stream:
    """One job under way. Iterate over it once, in any one thread, for tokens as they come; all samples mixed."""

    def __init__(self, job: Job, commands: "SimpleQueue[_Command]") -> None:
        self.job = job
        self._commands = commands
        self._said: SimpleQueue[Said | None] = SimpleQueue()
        self._samples: Future[list[RolledOut]] = Future()
        self._lock = Lock()

    def __iter__(self) -> Iterator[Said]:
        try:
            while (said := self._said.get()) is not None:
                yield said
            self._samples.result()  # raises what ended the engine, if anything did
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the job soon; samples that have not ended finish "cancelled". Nothing happens to a job that is done."""
        if not self._samples.done():
            self._commands.put(_Command("cancel", self))

    def samples(self, timeout: float | None = None) -> list[RolledOut]:
        """Wait for all samples, cancelled ones included. Raises TimeoutError after so many seconds."""
        return self._samples.result(timeout)

    def _end(self, outcome: list[RolledOut] | BaseException) -> None:
        with self._lock:
            if self._samples.done():
                return
            if isinstance(outcome, BaseException):
                self._samples.set_exception(outcome)
            else:
                self._samples.set_result(outcome)
        self._said.put(None)


@dataclass(frozen=True, slots=True)
class _Command:
    """What the engine thread is asked to do."""

    what: Literal["begin", "cancel", "close"]
    stream: Stream | None = None


class Service:
    """An engine behind a queue. Open it with `with`; leaving cancels whatever still runs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._streams: dict[Ticket, Stream] = {}
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._thread: Future[None] | None = None

    def __enter__(self) -> Self:
        self._thread = self._pool.submit(self._serve)
        self._thread.add_done_callback(self._stopped)
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.put(_Command("close"))
        self._pool.shutdown()

    def stream(self, job: Job) -> Stream:
        """Queue a job. Raises UserError for what could never run; once the engine has stopped, its stream does."""
        job.check(self.engine.capacity)
        assert self._thread is not None, "open the service with `with` first"
        stream = Stream(job, self._commands)
        self._commands.put(_Command("begin", stream))
        if self._thread.done():  # nobody reads the queue any more
            self._stopped(self._thread)
        return stream

    def _serve(self) -> None:
        """The engine thread: commands between steps; sleeps when there is nothing to do."""
        closing = False
        while not (closing and self.engine.idle):
            for command in self._asked(wait=self.engine.idle):
                if command.what == "close":
                    closing = True
                    for ticket in self._streams:
                        self.engine.cancel(ticket)
                elif closing and command.what == "begin" and command.stream is not None:
                    command.stream._end(self._closed(command.stream))  # or those who keep asking would keep it open
                elif command.what == "begin" and command.stream is not None:
                    ticket = self.engine.submit(command.stream.job, command.stream._said.put)
                    self._streams[ticket] = command.stream
                else:
                    for ticket in [ticket for ticket, stream in self._streams.items() if stream is command.stream]:
                        self.engine.cancel(ticket)
            for ticket in self.engine.advance():
                self._streams.pop(ticket)._end(ticket.samples)

    def _asked(self, wait: bool) -> Iterator[_Command]:
        """All commands there are; with `wait`, at least one."""
        if wait:
            yield self._commands.get()
        while True:
            try:
                yield self._commands.get_nowait()
            except Empty:
                return

    def _stopped(self, thread: "Future[None]") -> None:
        """Nobody waits for an engine that has stopped: open streams raise what stopped it."""
        unseen = [command.stream for command in self._asked(wait=False) if command.what == "begin"]
        for stream in [*self._streams.values(), *unseen]:
            if stream is not None:
                stream._end(thread.exception() or self._closed(stream))

    def _closed(self, stream: Stream) -> UserError:
        return UserError(f"{stream.job.name}: the service is closed")
