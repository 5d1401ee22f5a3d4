"""A file of addresses: servers come and go while the harvest runs."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.errors import LostError, UserError
from distill.harvest import HarvestConfig
from distill.records import Message, Params
from distill.sampling.endpoint import EndpointConfig, EndpointSampler, breaker, pool, retry
from distill.sampling.endpoint.urls import addresses
from distill.sampling.protocols import Request
from tests.hostile_server import GOOD, Handler, good, serving
from tests.test_endpoint_servers import nobody


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF", 0.02)
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(pool, "LOOKS", 0.05)


def sampler(file: Path, **fields: Any) -> EndpointSampler:
    said: list[str] = []
    made = EndpointSampler(
        EndpointConfig(urls_file=str(file), model="m", revision="1", **{"concurrency": 2, **fields}), say=said.append
    )
    made.said = said  # type: ignore[attr-defined]
    return made


def asked(count: int) -> Iterator[Request]:
    for number in range(count):
        yield Request(f"p{number}", (Message(role="user", content="x"),), Params(max_tokens=9), seed=number)


def slow(handler: Handler, body: dict[str, Any]) -> None:
    time.sleep(0.02)
    handler.reply(GOOD)


def test_a_server_that_joins_is_asked_and_one_that_leaves_is_not(tmp_path: Path) -> None:
    file = tmp_path / "urls"
    with serving(slow) as one, serving(slow) as other:
        file.write_text(f"# teachers\n{one.url}\n\n")
        speaker = sampler(file)
        answers = speaker.sample(asked(400))
        for _ in range(10):
            next(answers)
        assert other.calls == []
        file.write_text(f"{other.url}\n")
        rest = list(answers)
        left = len(one.calls)
        assert len(rest) == 390, "what the one that left had in hand was waited for"
        assert left < 300
        assert left + len(other.calls) == 400, "nothing was asked twice"
    assert any("no longer in" in text for text in speaker.said)  # type: ignore[attr-defined]
    assert [found.url for found in speaker.health()] == [other.url]


def test_servers_that_are_not_there_yet_are_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "urls"
    with serving(good) as one:
        speaker = sampler(file, patience=20.0)

        def say(text: str) -> None:
            file.write_text(f"{nobody()}\n{one.url}\n")  # the job began

        speaker._say = say
        assert len(list(speaker.sample(asked(5)))) == 5


def test_a_server_that_leaves_while_texts_are_scored_ends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "urls"
    with serving(good) as one, serving(good) as other:
        file.write_text(f"{one.url}\n{other.url}\n")
        speaker = sampler(file, concurrency=4)
        answers = speaker.ask_many(speaker._call(request, range(1)) for request in asked(20))
        next(answers)
        file.write_text(f"{one.url}\n")
        until = time.monotonic() + 10.0
        while speaker._most > 4 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(list(answers)) == 19


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it names no server;|it names no server$"),
        ("http://a:1/v1", r"it names no server \(its last line has no end yet\)"),
        ("{nobody}\n", "none of the 1 servers it names answers"),
    ],
    ids=["empty", "no newline", "nobody is there"],
)
def test_patience_with_a_file_has_an_end(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "urls"
    file.write_text(text.format(nobody=nobody()))
    begun = time.monotonic()
    with pytest.raises(LostError, match=message):
        list(sampler(file, patience=0.3).sample(asked(5)))
    assert 0.2 < time.monotonic() - begun < 5.0


def test_all_servers_leaving_the_file_loses_the_teacher_after_patience(tmp_path: Path) -> None:
    file = tmp_path / "urls"
    with serving(slow) as one:
        file.write_text(f"{one.url}\n")
        answers = sampler(file, patience=0.3).sample(asked(400))
        found = [next(answers)]
        file.write_text("")
        with pytest.raises(LostError, match=r"names no server; no answer for 0.3 s \(patience\)"):
            found += answers
        assert len(found) == len(one.calls), "what was under way was kept"


def test_a_line_that_is_being_written_is_left_for_the_next_look(tmp_path: Path) -> None:
    file = tmp_path / "urls"
    config = EndpointConfig(urls_file=str(file), model="m", revision="1")
    assert addresses(config) == ()
    file.write_text("\ufeffhttp://a:1/v1/\nhttp://b:2/v1 # on node 7\nhttp://a:1/v1\nhttp://c:")
    assert addresses(config) == ("http://a:1/v1", "http://b:2/v1")


@pytest.mark.parametrize(
    ("line", "fields", "message"),
    [
        ("node7:8000", {}, r"urls:2: expected http\(s\)://host"),
        ("http://u:secret@a/v1", {}, "urls:2: a url holds no credentials"),
        ("http://a/v1", {"key_env": "K"}, "urls:2: http://a/v1 would get the key unencrypted"),
    ],
)
def test_a_line_that_is_no_address_is_named(line: str, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "urls"
    file.write_text(f"https://a/v1\n{line}\n")
    with pytest.raises(UserError, match=message):
        addresses(EndpointConfig(urls_file=str(file), model="m", revision="1", **fields))


def test_moving_servers_makes_nothing_again() -> None:
    """A table's dump is its step's fingerprint: the file's name is in it, addresses are not, and old tables stay."""
    table = {"problems": "p", "sampler": "endpoint", "max_tokens": 9}
    known = {"model": "m", "revision": "1"}
    moved = HarvestConfig.model_validate({**table, "endpoint": {"urls_file": "urls", **known}})
    assert moved.model_dump(mode="json")["endpoint"]["urls_file"] == "urls"
    old = HarvestConfig.model_validate({**table, "endpoint": {"url": "http://a/v1", **known}})
    assert "urls_file" not in old.model_dump(mode="json")["endpoint"]
