"""Key: a secret that travels in one header and is shown nowhere else.

It lives in a type whose every picture is `***`, is put into a request only while that is sent,
and an answer or an error that repeats it is kept from screen and disk.
"""

import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from distill.errors import UserError
from distill.sampling.endpoint.config import EndpointConfig

if TYPE_CHECKING:
    import httpx2


class Key:
    """A secret."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value.strip()

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")

    @property
    def complaint(self) -> str:
        """What keeps it from being sent; empty when nothing does."""
        if not self._value:
            return "is empty"
        whole = self._value.isascii() and self._value.isprintable() and " " not in self._value
        return "" if whole else "is no key: expected one word of printable ASCII"

    def put_into(self, headers: "httpx2.Headers") -> None:
        """As a bearer token."""
        headers["Authorization"] = f"Bearer {self._value}"

    def hide(self, text: str) -> str:
        """The text with every mention of the key masked."""
        return text.replace(self._value, "***")

    def is_in(self, body: bytes) -> bool:
        """Whether an answer repeats it."""
        return self._value.encode() in body


def find_key(config: EndpointConfig) -> Key | None:
    """The key a table names, None when it names none. UserError when it is not there or others can read it."""
    if config.key_env:
        key, where = Key(os.environ.get(config.key_env, "")), f"environment variable {config.key_env}"
    elif config.key_file:
        key, where = _from_file(Path(config.key_file).expanduser()), config.key_file
    else:
        return None
    if key.complaint:
        raise UserError(f"endpoint {config.where}: {where} {key.complaint} (key_{'env' if config.key_env else 'file'})")
    return key


def _from_file(path: Path) -> Key:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = os.fstat(file.fileno())
            mode = stat.S_IMODE(found.st_mode)
            if not stat.S_ISREG(found.st_mode) or mode & 0o177:
                raise UserError(
                    f"{path}: mode is {mode:04o}, others may read the key; expected 0600 (chmod 600 {path})"
                )
            return Key(file.read(10_000))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror} (key_file)") from error


def bearer(key: Key | None) -> Any:
    """An httpx2 Auth that adds the key as a request leaves; None adds nothing."""
    import httpx2

    class Bearer(httpx2.Auth):
        def auth_flow(self, request: "httpx2.Request") -> Generator["httpx2.Request", "httpx2.Response", None]:
            if key is not None:
                key.put_into(request.headers)
            yield request

    return Bearer()
