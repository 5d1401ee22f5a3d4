"""Urls: a file that names the servers, one a line, read again and again while a harvest runs.

For servers that come and go: jobs of a cluster that begin when a node is free and end at their time limit
write their address into it and take it out. A server that is new in the file is asked from then on, one
that left it is asked nothing more, what it has in hand is waited for. The file's name is all that goes into the
step's fingerprint, so moving the servers never has anything made again.
A last line without its end is being written, and is left for the next look.
"""

from pathlib import Path

from distill.errors import UserError
from distill.sampling.endpoint.config import EndpointConfig

LARGEST = 1 << 20
"""Bytes read."""


def addresses(config: EndpointConfig) -> tuple[str, ...]:
    """The servers a table means at this moment, each once. UserError names a line of its file that is no address."""
    if not config.urls_file:
        return config.servers
    path, found = _path(config), dict[str, None]()
    for number, line in enumerate(_read(path).splitlines(keepends=True), 1):
        url = line.partition("#")[0].strip()
        if url and line.endswith("\n"):
            try:
                found[config.checked(url)] = None
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}") from None
    return tuple(found)


def half_written(config: EndpointConfig) -> bool:
    """Whether the file ends in the middle of a line."""
    text = _read(_path(config))
    return bool(text) and not text.endswith(("\n", "\r"))


def _path(config: EndpointConfig) -> Path:
    return Path(config.urls_file).expanduser()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST).decode("utf-8-sig", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{path}: {error.strerror} (urls_file)") from error
