"""Client: one attempt at one call.

One wall-clock deadline holds for all of it (a per-read timeout lets a server drip for ever), redirects
are not followed (they would carry the prompt to another origin), certificates are verified, a body
is capped, never decompressed, and refused when it repeats the key.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from distill.errors import UserError
from distill.sampling.endpoint.config import EndpointConfig
from distill.sampling.endpoint.key import Key, bearer
from distill.sampling.endpoint.retry import PassingError, Trouble, retry_after

if TYPE_CHECKING:
    import httpx2

RETRIED = (408, 409, 425, 429)
"""Client errors that pass; every 5xx does too."""
BUSY = (429, 503, 504, 529)
"""Too much to do, said by the server itself or by what stands in front of it."""
GONE = (502, 503, 504)
"""What a gateway says when nobody is behind it."""
ERROR_BYTES = 1 << 16
"""As much of a refusal's body is read; the connection of a longer one is given up."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One thing asked of a server."""

    name: str
    """What an error calls it."""
    path: str
    ask: bytes
    read: Callable[[bytes], Answer]
    """Raises PassingError for a body that is no whole answer, UserError for one that never will be."""
    n: int = 1
    """Completions it asks for."""


class RefusedError(Exception):
    """The server will not do what was asked, however often."""

    def __init__(self, why: str, status: int = 200, url: str = "") -> None:
        super().__init__(f"endpoint {url}: {why}" if url else why)
        self.why, self.status = why, status


class Client:
    """Connections to all servers of a table. Lives on one event loop."""

    def __init__(self, config: EndpointConfig, key: Key | None) -> None:
        import httpx2

        self.config, self._key = config, key
        self._http = httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity", "Content-Type": "application/json"},
            auth=bearer(key),
            verify=_authorities(config),
            timeout=httpx2.Timeout(None, connect=config.connect),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            follow_redirects=False,
            trust_env=config.trust_env,
        )

    async def close(self) -> None:
        """Drop the connections."""
        await self._http.aclose()

    async def attempt(self, url: str, call: "Call[Answer]") -> Answer:
        """The answer. Raises PassingError or RefusedError, with the key hidden in what they say."""
        trouble: PassingError | RefusedError
        try:
            body = await self._body("POST", url + call.path, call.ask)
            if self._key is not None and self._key.is_in(body):
                raise PassingError("the answer repeats the key")
            return call.read(body)
        except PassingError as error:
            trouble = PassingError(self._hide(str(error)), error.trouble, error.wait, error.status)
        except RefusedError as error:
            trouble = RefusedError(self._hide(str(error)), error.status)
        raise trouble  # outside the block: what it came from may hold headers

    async def gone(self, url: str) -> str:
        """Why a server takes no calls now; empty when it answers at all, with whatever it has at /models."""
        try:
            await self._body("GET", f"{url}/models", None, deadline=self.config.connect)
        except PassingError as error:
            return self._hide(str(error)) if not error.status or error.status in GONE else ""
        except RefusedError:
            return ""
        return ""

    async def _body(self, method: str, url: str, ask: bytes | None, deadline: float | None = None) -> bytes:
        """The body of a 200. No exception of the transport leaves here, nor is it chained."""
        import httpx2

        deadline = deadline or self.config.deadline
        trouble: Trouble = "broken"
        try:
            async with asyncio.timeout(deadline), self._http.stream(method, url, content=ask) as response:
                if response.status_code == 200:
                    return await self._read(response, self.config.max_body)
                raise await self._refusal(response)
        except TimeoutError:
            why, trouble = f"not finished within {deadline:g} s", "busy"
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            why, trouble = _named(error), "down"
        except (httpx2.TransportError, httpx2.StreamError, httpx2.InvalidURL) as error:
            why = _named(error)
        raise PassingError(why, trouble)

    async def _read(self, response: "httpx2.Response", most: int) -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise PassingError("the body is compressed, which was not asked for")
        parts, size = [], 0
        async for part in response.aiter_raw():
            size += len(part)
            if size > most:
                raise RefusedError(f"an answer over {most:,} bytes (max_body)")
            parts.append(part)
        return b"".join(parts)

    async def _refusal(self, response: "httpx2.Response") -> Exception:
        status = response.status_code
        try:
            said = (await self._read(response, ERROR_BYTES)).decode(errors="replace")
        except (RefusedError, PassingError):
            said = ""
        said = " ".join(self._hide(said).split())[:200]
        more = f": {said}" if said else ""
        if status in RETRIED or status >= 500:
            wait = retry_after(response.headers.get("Retry-After"))
            return PassingError(f"status {status}{more}", "busy" if status in BUSY else "broken", wait, status)
        moved = f" to {response.headers.get('Location', 'nowhere')!r}, not followed" if 300 <= status < 400 else ""
        return RefusedError(f"status {status}{moved}; expected 200{more}", status)

    def _hide(self, text: str) -> str:
        return text if self._key is None else self._key.hide(text)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _authorities(config: EndpointConfig) -> ssl.SSLContext | bool:
    """Whose certificates are believed. Reading the usual ones takes 30 ms, so plain http does without: nobody's."""
    if not config.trust_env and config.servers and all(url.startswith("http:") for url in config.servers):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not config.ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"{config.ca_file}: no certificates in it ({error}) (ca_file)") from error
