"""One server: what is asked of it, what becomes of its answers, and what of its faults."""

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from distill.errors import UserError
from distill.records import Message, Params
from distill.sampling.endpoint import EndpointConfig, EndpointSampler
from distill.sampling.protocols import Answered, Request
from tests.hostile_server import GOOD, Behave, Handler, choice, cut, drip, drop, good, says, serving


def sampler(server: Any, **fields: Any) -> EndpointSampler:
    settings = {"url": server.url, "model": "tiny", "revision": "r1", "tries": 2, "deadline": 5.0, **fields}
    return EndpointSampler(EndpointConfig(**settings))


def asked(number: int = 0, n: int = 1, **params: Any) -> Request:
    message = Message(role="user", content="2+2?")
    return Request(f"p{number}", (message,), Params(**{"max_tokens": 9, **params}), n, seed=100 * number)


def one(server: Any, **fields: Any) -> Answered:
    (answered,) = sampler(server, **fields).sample([asked()])
    return answered


def test_a_conversation_becomes_a_completion() -> None:
    with serving(good) as server:
        (answered,) = sampler(server).sample([asked(1, n=2, temperature=0.5, stop=("\n",))])
    assert [completion.text for completion in answered.completions] == ["4", "4"]
    assert (answered.completions[0].prompt_tokens, answered.completions[0].completion_tokens) == (3, 1)
    path, _, body, _ = server.calls[0]
    assert path == "/v1/chat/completions"
    assert sorted(call[2]["seed"] for call in server.calls) == [100, 101]
    assert (body["temperature"], body["stop"], body["max_tokens"], "top_k" in body) == (0.5, ["\n"], 9, False)


def test_no_seed_is_sent_to_a_server_that_dies_of_one() -> None:
    with serving(good) as server:
        one(server, send_seed=False)
    assert "seed" not in server.calls[0][2]


@pytest.mark.parametrize(
    ("message", "text", "thought"),
    [
        ({"content": "4", "reasoning_content": "two and two"}, "4", "two and two"),
        ({"content": "4", "reasoning": "two and two"}, "4", "two and two"),
        ({"content": None, "reasoning_content": "two and"}, "", "two and"),
        ({"content": "<think> a </think> 4"}, "<think> a </think> 4", None),
    ],
    ids=["apart", "apart under vLLM's name", "the thought never ended", "inline"],
)
def test_a_thought_is_kept_apart_or_inline(message: dict[str, Any], text: str, thought: str | None) -> None:
    with serving(says(choice(message))) as server:
        (completion,) = one(server).completions
    assert (completion.text, completion.reasoning) == (text, thought)


PASSING = {
    "500": says({"error": "busy"}, 500),
    "429": says({"error": "slow down"}, 429),
    "dropped connection": drop,
    "body shorter than announced": cut,
    "a web page with 200": says(b"<html>sign in</html>"),
    "no choices": says(GOOD | {"choices": []}),
    "null content": says(choice({"content": None})),
    "no finish reason": says(choice({"content": "par"}, None)),
    "filtered": says(choice({"content": "par"}, "content_filter")),
    "no usage": says({"choices": GOOD["choices"]}),
    "compressed unasked": says(GOOD, Content_Encoding="gzip"),
}


@pytest.mark.parametrize("behave", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_tried_again(behave: Behave) -> None:
    with serving(behave, good) as server:
        assert one(server).completions[0].text == "4"
    assert len(server.calls) == 2


@pytest.mark.parametrize("behave", PASSING.values(), ids=PASSING)
def test_what_does_not_pass_is_never_a_completion(behave: Behave) -> None:
    with serving(behave) as server, pytest.raises(UserError, match="'p0': no whole answer in 1 tries, the last: "):
        one(server, tries=1)


def test_a_dripping_server_meets_the_wall_deadline() -> None:
    begun = time.monotonic()
    with serving(drip) as server, pytest.raises(UserError, match=r"not finished within 0\.3 s"):
        one(server, tries=1, deadline=0.3)
    assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize(
    ("behave", "message"),
    [
        (says({}, 307, Location="http://elsewhere.example/v1"), "307 to 'http://elsewhere.example/v1', not followed"),
        (says({"error": "no such model"}, 404), "status 404"),
        (says({"error": "bad key"}, 401), "status 401"),
        (says(b" " * 5000), r"over 4,096 bytes \(max_body\)"),
        (says({}, 429, Retry_After="3600"), "asks to wait 3,600 s; patience is 600"),
    ],
    ids=["redirect", "no such model", "bad key", "huge body", "an hour's wait"],
)
def test_what_will_not_pass_fails_at_once(behave: Behave, message: str) -> None:
    with serving(behave) as server, pytest.raises(UserError, match=message):
        one(server, max_body=4096, tries=5)
    assert len(server.calls) == 1


def test_retry_after_holds_every_request_back() -> None:
    with serving(says({}, 503, Retry_After="1"), good) as server:
        answered = list(sampler(server, concurrency=1).sample([asked(0), asked(1)]))
    assert len(answered) == 2
    times = [call[3] for call in server.calls]
    assert times[1] - times[0] >= 1.0


def test_no_more_calls_run_at_once_than_allowed() -> None:
    running, most, lock = [0], [0], threading.Lock()

    def slow(handler: Handler, body: dict[str, Any]) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.03)
        with lock:
            running[0] -= 1
        handler.reply(GOOD)

    with serving(slow) as server:
        answered = list(sampler(server, concurrency=3).sample(asked(number, n=2) for number in range(6)))
    assert sorted(found.request.id for found in answered) == [f"p{number}" for number in range(6)]
    assert most[0] == 3


def test_requests_are_read_only_as_far_as_there_is_room() -> None:
    read = []

    def requests() -> Iterator[Request]:
        for number in range(50):
            read.append(number)
            yield asked(number)

    with serving(good) as server:
        answers = sampler(server, concurrency=2).sample(requests())
        next(answers)
        assert len(read) <= 4
        answers.close()  # type: ignore[attr-defined]


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("TINY_KEY", "canary-5150")
    caplog.set_level(logging.DEBUG)
    with serving(says({"error": "no"}, 403)) as server, pytest.raises(UserError) as error:
        one(server, key_env="TINY_KEY")
    assert server.calls[0][1]["Authorization"] == "Bearer canary-5150"
    assert "canary-5150" not in str(error.value) + caplog.text + repr(sampler(server, key_env="TINY_KEY").config)


def test_a_missing_key_is_named_before_anything_is_sent() -> None:
    with pytest.raises(UserError, match="NO_SUCH_KEY is empty"):
        EndpointSampler(EndpointConfig(url="https://x/v1", model="m", revision="r", key_env="NO_SUCH_KEY"))


@pytest.mark.parametrize(
    "address",
    [
        {"url": "ftp://x/v1"},
        {"url": "http://name:secret@x/v1"},
        {"url": "http://x/v1?key=secret"},
        {},
        {"url": "http://x/v1", "serve": "m.gguf"},
    ],
    ids=["not http", "credentials", "query", "no address", "two addresses"],
)
def test_an_address_is_one_plain_url_or_one_file(address: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        EndpointConfig(**address, model="m", revision="r")  # type: ignore[arg-type]


def scored(*logprobs: dict[int, float] | None) -> dict[str, Any]:
    """A vLLM answer about a prompt: for each token, some tokens and their log-probabilities."""
    places = [
        None if place is None else {str(id): {"logprob": value, "rank": 1} for id, value in place.items()}
        for place in logprobs
    ]
    return {"choices": [{"text": "x", "prompt_logprobs": places}]}


def test_given_tokens_are_scored_in_order_over_prompt_logprobs() -> None:
    def answer(handler: Handler, body: dict[str, Any]) -> None:
        first, second = body["prompt"]
        time.sleep(0.1 if first == 5 else 0.0)  # the first asked is the last answered
        handler.reply(scored(None, {second: -2.0, 9: -0.5, 8: -1.0}))

    with serving(answer) as server:
        scores = list(sampler(server).score_many([[5, 6], [7, 9]], 2))
    assert [float(found.logprobs[0]) for found in scores] == [-2.0, -0.5]
    assert [found.top_ids.tolist() for found in scores] == [[[9, 8]], [[9, 8]]]
    assert scores[0].top_logprobs.tolist() == [[-0.5, -1.0]]
    path, _, body, _ = server.calls[0]
    assert (path, body["prompt_logprobs"], body["max_tokens"]) == ("/v1/completions", 2, 1)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        pytest.param({"choices": [{"text": "x"}]}, "vLLM returns them", id="a server without them"),
        pytest.param(scored(None), "1 tokens, expected 2", id="of another prompt"),
        pytest.param(scored(None, {8: -1.0, 7: -2.0}), "token 1", id="the token itself is missing"),
        pytest.param(scored(None, {6: -1.0}), "the 2 likeliest", id="fewer than asked for"),
    ],
)
def test_scores_of_something_else_are_refused(answer: dict[str, Any], complaint: str) -> None:
    with serving(says(answer)) as server, pytest.raises(UserError, match=complaint):
        sampler(server).score([5, 6], 2)
    assert len(server.calls) == 1, "asking again would not mend it"


def test_half_an_answer_is_asked_for_again() -> None:
    with serving(says(b'{"choices"'), says(scored(None, {6: -1.0, 7: -2.0}))) as server:
        assert float(sampler(server).score([5, 6], 2).logprobs[0]) == -1.0
