"""Several teachers speaking at once end at once when nobody listens, however long they would have waited."""

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.harvest.together import together
from distill.records import Message, Params
from distill.sampling.endpoint import EndpointConfig, EndpointSampler
from distill.sampling.protocols import Answered, Request
from tests.hostile_server import GOOD, Handler, serving
from tests.test_teachers import Named


def asked() -> Iterator[Request]:
    for number in range(9):
        yield Request(f"p{number}", (Message(role="user", content="x"),), Params(max_tokens=9), seed=number)


def test_servers_that_are_slow_or_not_there_yet_keep_nobody_waiting(tmp_path: Path) -> None:
    begun, over = threading.Event(), threading.Event()

    def slow(handler: Handler, body: dict[str, Any]) -> None:
        begun.set()
        over.wait(60.0)
        handler.reply(GOOD)

    class Wrong(Named):
        def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
            assert begun.wait(30.0)
            raise UserError("no such key")
            yield

    known: dict[str, Any] = {"model": "m", "revision": "1", "patience": 60.0}
    file = tmp_path / "urls"
    file.write_text("")
    with serving(slow) as one:
        speakers = {
            "slow": EndpointSampler(EndpointConfig(url=one.url, **known)),
            "nobody": EndpointSampler(EndpointConfig(urls_file=str(file), **known)),
            "wrong": Wrong("wrong"),
        }
        since = time.monotonic()
        with pytest.raises(UserError, match="no such key"):
            list(together([(name, speaker, asked()) for name, speaker in speakers.items()]))
        assert time.monotonic() - since < 30.0
        over.set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("teacher", "endpoint"))]
