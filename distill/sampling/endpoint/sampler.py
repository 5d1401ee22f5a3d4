"""Sampler: conversations in, completions out, through a pool of servers.

Samples of one problem are asked for one a call, each with its own seed, or several a call (`n`)
where the servers honor that; a server that returns fewer is asked for the others one by one.
When something cannot pass, what is under way is finished and kept, and then the error is raised. What a
server refuses for what it says (a prompt beyond its context) is answered as refused, and the others go on.

What is not covered: token ids of what is sampled, top log-probabilities (servers name tokens by
text), and the exact token count of each of several completions of one call (`bodies`).
"""

import asyncio
import contextlib
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from distill.errors import UserError
from distill.prompts import Chat
from distill.records import Completion, Message, SamplerId, reason
from distill.sampling.endpoint import prompt_logprobs
from distill.sampling.endpoint.bodies import PATHS, Whole, ask, read
from distill.sampling.endpoint.client import Answer, Call, RefusedError
from distill.sampling.endpoint.config import EndpointConfig
from distill.sampling.endpoint.doubt import OF_A_REQUEST
from distill.sampling.endpoint.key import find_key
from distill.sampling.endpoint.pool import Health, Say, Server
from distill.sampling.endpoint.retry import PassingError
from distill.sampling.endpoint.session import Session
from distill.sampling.endpoint.stream import read_stream
from distill.sampling.endpoint.urls import addresses
from distill.sampling.protocols import Answered, Request, TokenScores

CANCELLED = Completion(text="", finish="cancelled", prompt_tokens=0, completion_tokens=0)
"""Stands for what was not sampled in an answer that is otherwise worth keeping."""
AHEAD = 2
"""Completions not yet here, and requests not yet taken, in multiples of what the servers take at once."""
HUSH = object()
"""In place of an answer: nobody listens."""
HELLO = (Message(role="user", content="Say hello."),)
"""Asked where it is in doubt whether a server takes anything at all."""
SAMPLES_TOGETHER = (400, 422)
"""What servers say to an `n` they do not know."""


class _Progress:
    """Completions asked for, and those that came or will not: each counted in one thread only."""

    def __init__(self, room: Callable[[], int], wake: queue.SimpleQueue[Any]) -> None:
        self.asked = self.settled = 0
        self._room, self._wake = room, wake

    @property
    def has_room(self) -> bool:
        """Whether more may be asked for."""
        return self.asked - self.settled < self._room()

    def settle(self, count: int) -> None:
        """So many came; wakes the reader when that makes room. Called on the loop."""
        full = not self.has_room
        self.settled += count
        if full and self.has_room:
            self._wake.put(None)


class EndpointSampler:
    """One model behind one server or several. Implements `Sampler`."""

    def __init__(self, config: EndpointConfig, *, chat: Chat | None = None, say: Say | None = None) -> None:
        """`chat` renders prompts for `api = "completions"`; `say` is told what happens to servers.

        Raises UserError when the key is missing or open to others.
        """
        assert not config.serve, "that is somebody else's to start"
        assert (chat is not None) == (config.api == "completions"), "completions need a template"
        self.config, self.chat = config, chat
        self._say: Say = say or (lambda text: None)
        self._key = find_key(config)
        self._servers = [Server(url, config.concurrency) for url in addresses(config)]
        self._together = config.per_call > 1
        self._lock = threading.Lock()
        self._users = 0
        self._session: Session | None = None
        self._opening: Session | None = None
        self._hearing: set[queue.SimpleQueue[Any]] = set()

    @property
    def identity(self) -> SamplerId:
        """The model's name and revision; where it is served does not matter."""
        return SamplerId(name=self.config.model, revision=self.config.revision)

    @property
    def think_open(self) -> bool:
        """As the template says, or the config where a server does not show its template."""
        return self.chat.think_open if self.chat is not None else self.config.think_open

    def health(self) -> list[Health]:
        """Every server as it is now; may be asked from any thread."""
        return [server.health for server in list(self._servers) if server.listed or server.in_flight]

    def hush(self) -> None:
        """Have whoever samples now end at once, or stop waiting for servers; may be called from any thread."""
        opening = self._opening
        if opening is not None:
            opening.give_up()
        for arrived in list(self._hearing):
            arrived.put(HUSH)

    @property
    def _most(self) -> int:
        """Completions all servers take at once; those of one where a file names none yet."""
        return self.config.concurrency * max(sum(server.listed for server in list(self._servers)), 1)

    def score(self, token_ids: list[int], top_k: int) -> TokenScores:
        """Over vLLM's prompt log-probabilities; UserError from a server that has none."""
        return next(self.score_many([token_ids], top_k))

    def score_many(self, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
        """`score` of each sequence in the order given; as many as the servers take are asked for at once."""
        number = itertools.count(1)
        return self.ask_many(
            Call(
                f"sequence {next(number)}",
                "/completions",
                prompt_logprobs.ask(self.config.model, token_ids, top_k),
                partial(self._scores, token_ids=token_ids, top_k=top_k),
            )
            for token_ids in sequences
        )

    def ask_many(self, calls: Iterable[Call[Answer]]) -> Iterator[Answer]:
        """The answer to each call in the order given; as many as the servers take are asked for at once."""
        waiting: deque[queue.SimpleQueue[Answer | Exception]] = deque()
        with self._speaking() as session, session.works() as works:
            source = iter(calls)
            while True:
                for call in itertools.islice(source, max(self._most - len(waiting), 0)):
                    waiting.append(queue.SimpleQueue())
                    works.begin(self._ask(session, call), waiting[-1].put)
                if not waiting:
                    return
                found = waiting.popleft().get()
                if isinstance(found, Exception):
                    raise found
                yield found

    def tell_all(self, call: Call[Any], suffix: str) -> None:
        """Tell every server the same, at its url without `suffix`; UserError when one cannot be told."""
        with self._speaking() as session:
            session.run(session.everywhere(call, suffix))

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        """Answers as they come; requests are read twice as far ahead as the servers take at once, and no further.

        Raises UserError when one completion failed for good, once what was under way has been yielded. Of a
        request of which a part came, the others are marked as cancelled. Nothing partial is ever a completion.
        """
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._heard(arrived), self._speaking() as session, session.works() as works:
            source, going = iter(requests), 0
            progress = _Progress(lambda: AHEAD * self._most, arrived)
            failure: UserError | None = None
            while True:
                while failure is None and progress.has_room and going < AHEAD * self._most:
                    request = next(source, None)
                    if request is None:
                        source = iter(())
                        break
                    progress.asked += request.n
                    going += 1
                    works.begin(self._answer(session, progress, request), arrived.put)
                if not going:
                    break
                found = arrived.get()
                if found is None:  # there is room
                    continue
                if found is HUSH:
                    return
                if isinstance(found, Exception):
                    raise found
                going -= 1
                answered, error = found
                failure = failure or error
                if answered is not None:
                    yield answered
            if failure is not None:
                raise failure

    @contextlib.contextmanager
    def _heard(self, arrived: "queue.SimpleQueue[Any]") -> Iterator[None]:
        self._hearing.add(arrived)
        try:
            yield
        finally:
            self._hearing.discard(arrived)

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[Session]:
        """The session, which all who speak at once share; the last one closes it."""
        with self._lock:
            if self._session is None:
                session = self._opening = Session(self.config, self._key, self._servers, self._say)
                try:
                    session.open()
                except BaseException:
                    session.close()
                    raise
                finally:
                    self._opening = None
                self._session = session
            session = self._session
            self._users += 1
        try:
            yield session
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._session = None
                    session.close()

    async def _answer(
        self, session: Session, progress: _Progress, request: Request
    ) -> tuple[Answered | None, UserError | None]:
        """All completions of a request, or as many as came with why it is refused, or with what went wrong."""
        places: list[Completion | None] = [None] * request.n
        size = min(self.config.per_call, self.config.concurrency)
        chunks = [range(first, min(first + size, request.n)) for first in range(0, request.n, size)]
        error: UserError | None = None
        refused = ""
        try:
            await self._all(session, progress, request, chunks, places)
        except RefusedError as refusal:
            refused = refusal.why
        except UserError as failure:
            error = failure
        came = [place for place in places if place is not None]
        progress.settle(request.n - len(came))
        if not came and not refused:
            return None, error
        return Answered(request, tuple(place or CANCELLED for place in places), refused), error

    async def _all(
        self,
        session: Session,
        progress: _Progress,
        request: Request,
        chunks: Sequence[range],
        places: list[Completion | None],
    ) -> None:
        """Fill the places; an error is raised once all chunks have come to an end."""
        if len(chunks) == 1:
            return await self._fill(session, progress, request, chunks[0], places)
        fills = (self._fill(session, progress, request, chunk, places) for chunk in chunks)
        ended = await asyncio.gather(*fills, return_exceptions=True)
        failures = sorted((found for found in ended if found is not None), key=_is_refusal)
        if failures:
            raise failures[0]

    async def _fill(
        self,
        session: Session,
        progress: _Progress,
        request: Request,
        chunk: range,
        places: list[Completion | None],
    ) -> None:
        """One call, and further ones for what it left out."""
        missing: Sequence[int] = chunk
        if len(chunk) == 1 or self._together:
            try:
                whole, server = await session.persist(self._call(request, chunk))
            except RefusedError as refusal:
                if len(chunk) == 1 or refusal.status not in SAMPLES_TOGETHER:
                    await self._blame(session, request, refusal)
                    raise
                # `n`, or what the request says? One sample alone tells.
                await self._fill(session, progress, request, chunk[:1], places)
                self._one_by_one(str(refusal))
                missing = chunk[1:]
            except UserError as error:
                raise session.end(error) from None
            else:
                self._keep(whole, server, chunk, places)
                progress.settle(len(whole.completions))
                missing = [place for place in chunk if places[place] is None]
        if missing:
            singles = [range(place, place + 1) for place in missing]
            await self._all(session, progress, request, singles, places)

    async def _blame(self, session: Session, request: Request, refusal: RefusedError) -> None:
        """Return where one request was refused for what it says. UserError, and no more calls, where everything is."""

        async def ask_shortly() -> None:
            await session.persist(self._call(Request("hello", HELLO, request.params, seed=request.seed), range(1)))

        try:
            alone = await session.doubt.settle(refusal, ask_shortly)
        except UserError as error:
            raise session.end(error) from None
        if not alone:
            also = "; so is a short question" if refusal.status in OF_A_REQUEST else ""
            raise session.end(UserError(f"{refusal}{also}")) from None

    def _keep(self, whole: Whole, server: Server, chunk: range, places: list[Completion | None]) -> None:
        for number, completion in whole.completions.items():
            places[chunk[number]] = completion
            server.tokens += completion.completion_tokens
        if whole.choices < len(chunk):
            self._one_by_one(f"endpoint {server.url}: {whole.choices} choices for n = {len(chunk)}")

    def _one_by_one(self, why: str) -> None:
        if self._together:
            self._together = False
            self._say(f"{why}; samples are asked for one by one from here on")

    def _call(self, request: Request, chunk: range) -> Call[Whole]:
        n = len(chunk)
        body = ask(self.config, request.messages, request.params, n=n, seed=request.seed + chunk[0], chat=self.chat)
        reader = read_stream if self.config.stream else read
        return Call(
            f"problem {request.id!r}", PATHS[self.config.api], body, partial(reader, api=self.config.api, n=n), n
        )

    async def _ask(self, session: Session, call: Call[Answer]) -> Answer:
        try:
            return (await session.persist(call))[0]
        except RefusedError as refusal:
            raise UserError(str(refusal)) from None

    def _scores(self, body: bytes, token_ids: list[int], top_k: int) -> TokenScores:
        try:
            return prompt_logprobs.read(body, token_ids, top_k)
        except ValueError as error:  # a ValidationError is one
            why = reason(error) if isinstance(error, ValidationError) else str(error)
            if isinstance(error, ValidationError) and error.errors()[0]["type"] == "json_invalid":
                raise PassingError(f"not JSON ({why}): {body[:60]!r}") from error
            raise UserError(f"no log-probabilities of a prompt ({why}); vLLM returns them") from error


def _is_refusal(failure: BaseException) -> bool:
    """Of several failures the one that ends everything is raised."""
    return isinstance(failure, RefusedError)
