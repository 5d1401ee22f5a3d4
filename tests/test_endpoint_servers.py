"""Several servers behind one sampler: who is asked, who is left alone, and what survives a death."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.records import Message, Params
from distill.sampling.endpoint import EndpointConfig, EndpointSampler, breaker, pool, retry
from distill.sampling.endpoint.breaker import OPENS_AFTER, Breaker
from distill.sampling.endpoint.pace import Pace
from distill.sampling.endpoint.retry import PassingError, retry_after
from distill.sampling.protocols import Answered, Request
from tests.hostile_server import GOOD, Behave, Handler, drop, good, says, serving
from tests.mock_server import mock_server
from tests.storm import crowd, death, errors


def sampler(*urls: str, **fields: Any) -> EndpointSampler:
    settings = {"urls": urls, "model": "tiny", "revision": "r1", **fields}
    said: list[str] = []
    made = EndpointSampler(EndpointConfig(**settings), say=said.append)
    made.said = said  # type: ignore[attr-defined]
    return made


def asked(count: int, n: int = 1) -> Iterator[Request]:
    for number in range(count):
        message = Message(role="user", content=f"say {number}")
        yield Request(f"p{number}", (message,), Params(max_tokens=9), n, seed=100 * number)


def ids(answers: list[Answered]) -> list[str]:
    return sorted(answered.request.id for answered in answers)


def everyone(count: int) -> list[str]:
    return sorted(f"p{number}" for number in range(count))


def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF", 0.02)
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.02)


def test_two_servers_share_the_work() -> None:
    def slow(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(0.02)
        handler.reply(GOOD)

    with serving(slow) as one, serving(slow) as other:
        speaker = sampler(one.url, other.url, concurrency=2)
        assert ids(list(speaker.sample(asked(20)))) == everyone(20)
    assert {found.ok for found in speaker.health()} != {0, 20}
    assert min(found.ok for found in speaker.health()) >= 5
    assert [found.tokens for found in speaker.health()] == [found.ok for found in speaker.health()]


def test_a_server_that_is_not_there_at_the_start_is_left_alone_and_said() -> None:
    with serving(good) as one:
        speaker = sampler(nobody(), one.url)
        assert len(list(speaker.sample(asked(5)))) == 5
    assert [found.state for found in speaker.health()] == ["open", "closed"]
    assert "left alone until it answers" in speaker.said[0]  # type: ignore[attr-defined]
    assert speaker.health()[0].ok == speaker.health()[0].failed == 0, "no completion was asked of it"


def test_no_server_at_all_is_said_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match="nor does any of the 1 others answer"):
        list(sampler(nobody(), nobody()).sample(asked(5)))
    assert time.monotonic() - begun < 2.0


@pytest.mark.parametrize(
    "behave", [says({"error": "broken"}, 500), says({"error": "busy"}, 503), drop], ids=["500", "503", "drops"]
)
def test_a_server_that_only_fails_does_not_draw_the_work(behave: Behave) -> None:
    with serving(behave) as bad, serving(good) as one:
        speaker = sampler(bad.url, one.url, concurrency=4)
        assert ids(list(speaker.sample(asked(200)))) == everyone(200)
    assert len(bad.calls) <= 40, "a fair half would be hundreds, each of them sent again"


def test_a_server_that_comes_back_is_asked_again() -> None:
    with serving(*[drop] * 2 * OPENS_AFTER, good) as one:
        speaker = sampler(one.url, concurrency=4)
        assert ids(list(speaker.sample(asked(20)))) == everyone(20)
    assert [found.state for found in speaker.health()] == ["closed"]
    assert speaker.said[-1].endswith("answers again")  # type: ignore[attr-defined]


def test_the_last_server_may_be_gone_for_as_long_as_patience_says() -> None:
    with mock_server(seconds=0.02) as one:
        answers = sampler(one.url, concurrency=2, patience=1.0).sample(asked(1000))
        next(answers)
        one.process.kill()
        begun = time.monotonic()
        with pytest.raises(UserError, match=r"no answer for 1 s \(patience\)"):
            list(answers)
    assert 0.5 < time.monotonic() - begun < 8.0


def test_patience_ends_when_a_server_is_back_though_its_first_answer_takes_longer() -> None:
    async def story() -> None:
        here: dict[str, str] = {}

        async def gone(url: str) -> str:
            return here.get(url, "")

        two = [pool.Server("a", 1), pool.Server("b", 1)]
        config = EndpointConfig(urls=("http://a/v1", "http://b/v1"), model="m", revision="1", patience=0.4)
        servers = pool.Pool(two, gone, config, lambda text: None)
        await servers.start()
        here |= {"a": "no connection", "b": "no connection"}
        for server in two:
            servers.failed(server, PassingError("no connection", "down"), 0.0)
        await asyncio.sleep(0.1)
        del here["b"]
        asked = await servers.take(1)
        assert asked.url == "b"
        await asyncio.sleep(1.0)  # it thinks, and a is still gone
        assert servers.over is None
        servers.leave(asked, 1)
        await servers.close()

    asyncio.run(story())


def test_a_server_that_is_back_may_take_longer_than_patience_to_answer() -> None:
    def slow(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(1.5)
        handler.reply(GOOD)

    with serving(*[drop] * OPENS_AFTER, slow, good) as one:
        speaker = sampler(nobody(), one.url, concurrency=1, patience=0.5)
        assert ids(list(speaker.sample(asked(3)))) == everyone(3)


def test_what_was_under_way_when_a_call_failed_for_good_is_kept() -> None:
    def by_number(handler: Handler, body: dict[str, Any]) -> None:
        if body["seed"] == 1:
            return handler.reply({"error": "no such model"}, 404)
        time.sleep(0.3)
        return handler.reply(GOOD)

    found: list[Answered] = []
    with serving(by_number) as one:
        answers = sampler(one.url, concurrency=3, deadline=20.0).sample(asked(50, n=3))
        with pytest.raises(UserError, match="status 404; expected 200"):
            found.extend(answers)
    assert [completion.finish for completion in found[0].completions] == ["stop", "cancelled", "stop"]
    assert len(one.calls) < 10, "no more calls were begun"


def test_a_wait_that_is_asked_for_is_shown() -> None:
    with serving(says({}, 429, Retry_After="2"), good) as one:
        speaker = sampler(one.url, concurrency=1)
        answers = speaker.sample(asked(1))
        found = []
        reader = threading.Thread(target=lambda: found.extend(answers))
        reader.start()
        until = time.monotonic() + 5.0
        while speaker.health()[0].waiting_until is None and time.monotonic() < until:
            time.sleep(0.01)
        waiting = speaker.health()[0].waiting_until
        reader.join()
    assert waiting is not None
    assert 0 < waiting - time.time() + 3.0 < 3.5
    assert any("asks to wait 2 s (Retry-After)" in text for text in speaker.said)  # type: ignore[attr-defined]


def test_two_who_speak_through_one_sampler_at_once_share_its_servers() -> None:
    with serving(good) as one:
        speaker = sampler(one.url, concurrency=1)
        first, second = speaker.sample(asked(5)), speaker.sample(asked(5))
        pairs = list(zip(first, second, strict=True))
    assert len(pairs) == 5


@pytest.mark.parametrize("storm", [errors, crowd, death], ids=lambda storm: storm.__name__)
def test_a_storm_leaves_every_trace_once_and_wastes_little(storm: Any, tmp_path: Path) -> None:
    found = storm(400, tmp_path)
    assert (found.stored, found.doubled, found.mixed_up) == (400, 0, 0)
    # Learning what the crowded server takes costs about 64 + 32 + 16 refused calls, whatever the length of the storm.
    assert found.wasted < 0.1 * found.calls + (112 if storm is crowd else 0), found.line()


def test_the_pace_is_halved_once_for_all_calls_sent_before() -> None:
    pace = Pace(64)
    sent = time.monotonic()
    assert [pace.too_much(sent) for _ in range(10)] == [True] + [False] * 9
    assert pace.window == 32
    pace.too_much(time.monotonic() + 1.0)
    assert pace.window == 16


def test_the_pace_grows_back_slowly_near_what_was_too_much() -> None:
    pace = Pace(64)
    pace.too_much(time.monotonic())
    rounds = []
    for goal in (40, 48, 56, 63):
        count = 0
        while pace.window < goal:
            pace.answered(1)
            count += 1
        rounds.append(count)
    assert rounds[2] > 4 * rounds[1] > rounds[0]
    for _ in range(10_000):
        pace.answered(1)
    assert pace.window == 64


def test_a_breaker_opens_at_once_only_for_a_server_that_is_down() -> None:
    fuse = Breaker()
    assert [fuse.failed(down=False) for _ in range(OPENS_AFTER)] == [False] * (OPENS_AFTER - 1) + [True]
    assert Breaker().failed(down=True)
    fuse.back()
    assert fuse.failed(down=False), "the one call that was let through failed"
    fuse.answered()
    assert fuse.state == "closed"


def test_a_breaker_counts_only_failures_in_a_row() -> None:
    fuse = Breaker()
    for _ in range(100):
        fuse.failed(down=False)
        fuse.answered()
    assert fuse.state == "closed"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("²", None),
        ("1.5", None),
        ("Wed, 99 Oct 99999 07:28:00 GMT", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date_or_nothing(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds
