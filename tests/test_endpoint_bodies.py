"""What is asked and what is understood: several samples a call, text completions, streams, log-probabilities."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.records import Completion, Message, Params
from distill.sampling.endpoint import EndpointConfig, EndpointSampler, retry
from distill.sampling.endpoint.bodies import read
from distill.sampling.endpoint.stream import read_stream
from distill.sampling.protocols import Request
from tests.hostile_server import GOOD, Handler, chunks, piece, says, serving


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF", 0.02)


def speak(server: Any, n: int = 1, chat: Chat | None = None, says: Any = None, **fields: Any) -> list[Completion]:
    settings = {"url": server.url, "model": "tiny", "revision": "r1", "tries": 3, **fields}
    request = Request("p", (Message(role="user", content="2 + 2 ?"),), Params(max_tokens=9), n, seed=70)
    (answered,) = EndpointSampler(EndpointConfig(**settings), chat=chat, say=says).sample([request])
    return list(answered.completions)


def together(most: int = 99, finish: str = "stop") -> Any:
    """A server that answers at most so many samples in one call, the second of several with this finish."""

    def behave(handler: Handler, body: dict[str, Any]) -> None:
        n = min(body.get("n", 1), most)
        choices = [
            {
                "index": k,
                "message": {"content": "x" * (k + 1)},
                "finish_reason": finish if n > 1 and k == 1 else "stop",
            }
            for k in reversed(range(n))  # order does not matter, numbers do
        ]
        handler.reply({"choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 10 * n}})

    return behave


def seeds(server: Any) -> list[tuple[int, int]]:
    return sorted((call[2].get("n", 1), call[2]["seed"]) for call in server.calls)


def test_samples_asked_for_together_come_in_one_call_and_in_their_places() -> None:
    with serving(together()) as server:
        completions = speak(server, n=4, per_call=4)
    assert seeds(server) == [(4, 70)]
    assert [completion.text for completion in completions] == ["x", "xx", "xxx", "xxxx"]
    assert sum(completion.completion_tokens for completion in completions) == 40
    assert [completion.completion_tokens for completion in completions] == [4, 8, 12, 16]


def test_more_samples_than_go_into_a_call_take_several() -> None:
    with serving(together()) as server:
        assert len(speak(server, n=5, per_call=2)) == 5
    assert seeds(server) == [(1, 74), (2, 70), (2, 72)]


def test_a_server_that_answers_one_of_several_is_asked_for_the_others_with_their_seeds() -> None:
    said: list[str] = []
    with serving(together(most=1)) as server:
        assert len(speak(server, n=3, per_call=3, says=said.append)) == 3
    assert seeds(server) == [(1, 71), (1, 72), (3, 70)]
    assert len(said) == 1
    assert "1 choices for n = 3; samples are asked for one by one" in said[0]


def test_a_server_that_refuses_several_is_asked_one_by_one() -> None:
    def refuses(handler: Handler, body: dict[str, Any]) -> None:
        if "n" in body:
            return handler.reply({"error": "n must be 1"}, 400)
        return handler.reply(GOOD)

    with serving(refuses) as server:
        assert len(speak(server, n=3, per_call=3)) == 3
    assert seeds(server) == [(1, 70), (1, 71), (1, 72), (3, 70)]


def test_of_several_samples_only_the_fragment_is_asked_for_again() -> None:
    with serving(together(finish="content_filter")) as server:
        assert [completion.text for completion in speak(server, n=3, per_call=3)] == ["x", "x", "xxx"]
    assert seeds(server) == [(1, 71), (3, 70)]


def test_log_probabilities_are_kept_where_they_are_given_and_count_the_tokens() -> None:
    def choice(k: int, count: int) -> dict[str, Any]:
        tokens = [{"token": "x", "logprob": -0.5 * (place + 1)} for place in range(count)]
        said = {"index": k, "message": {"content": "same"}, "finish_reason": "stop"}
        return said | {"logprobs": {"content": tokens}}

    answer = {"choices": [choice(0, 1), choice(1, 5)], "usage": {"prompt_tokens": 3, "completion_tokens": 6}}
    with serving(says(answer)) as server:
        first, second = speak(server, n=2, per_call=2, logprobs=True)
    assert server.calls[0][2]["logprobs"] is True
    assert (first.logprobs, second.completion_tokens) == ((-0.5,), 5)


def test_text_completions_carry_the_rendered_prompt() -> None:
    chat = Chat(mini_tokenizer())
    answer = {
        "choices": [
            {"text": "<think> a </think> 4", "finish_reason": "length", "logprobs": {"token_logprobs": [-0.5, -1.0]}}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    with serving(says(answer)) as server:
        (completion,) = speak(server, chat=chat, api="completions", tokenizer="mini", logprobs=True)
    path, _, body, _ = server.calls[0]
    assert path == "/v1/completions"
    assert body["prompt"] == chat.prompt_text((Message(role="user", content="2 + 2 ?"),))
    assert "messages" not in body
    assert (completion.text, completion.finish) == ("<think> a </think> 4", "length")
    assert (completion.logprobs, body["logprobs"]) == ((-0.5, -1.0), 1)


def test_a_final_assistant_turn_is_continued_by_text_completions() -> None:
    chat = Chat(mini_tokenizer())
    turns = (Message(role="user", content="2 + 2 ?"), Message(role="assistant", content="<think> 2"))
    answer = {"choices": [{"text": "x", "finish_reason": "stop"}], "usage": GOOD["usage"]}
    with serving(says(answer)) as server:
        config = EndpointConfig(url=server.url, model="m", revision="1", api="completions", tokenizer="mini")
        list(EndpointSampler(config, chat=chat).sample([Request("p", turns, Params(max_tokens=9))]))
    assert server.calls[0][2]["prompt"] == chat.prompt_text(turns[:1]) + "<think> 2"


def test_a_stream_is_put_together() -> None:
    body = chunks(
        {"choices": [{"index": 0, "delta": {"role": "assistant", "reasoning_content": "two "}}]},
        {"choices": [{"index": 0, "delta": {"reasoning_content": "and two"}}]},
        piece("4"),
        piece("2", "length"),
        {"choices": [], "usage": GOOD["usage"]},
        head=b": a comment\r\n\r\n",
    )
    for form in (body, body.replace(b"\n", b"\r\n")):
        (completion,) = read_stream(form, api="chat", n=1).completions.values()
        assert (completion.reasoning, completion.text, completion.finish) == ("two and two", "42", "length")


def test_samples_of_one_stream_are_told_apart() -> None:
    def said(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": index, "text": text, "finish_reason": finish}]}

    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 4}}
    body = chunks(said(1, "b"), said(0, "a"), said(1, "B", "stop"), said(0, "A"), usage, head=b"")
    found = read_stream(body, api="completions", n=2)
    assert {number: one.text for number, one in found.completions.items()} == {1: "bB"}, "sample 0 never finished"
    assert found.choices == 2


def test_half_a_character_does_not_cost_the_answer() -> None:
    body = json.dumps(GOOD).replace('"4"', '"4 \\ud83d"').encode()
    assert read(body, api="chat", n=1).completions[0].text == "4 \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("key", ["repetition_penalty", "top_logprobs"])
def test_what_servers_have_no_common_word_for_is_refused(key: str) -> None:
    params = Params(max_tokens=9, **{key: 2})
    with serving(says(GOOD)) as server:
        answers = EndpointSampler(EndpointConfig(url=server.url, model="m", revision="1")).sample(
            [Request("p", (Message(role="user", content="x"),), params)]
        )
        with pytest.raises(UserError, match=key):
            list(answers)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"urls": ("http://a/v1", "http://a/v1/")}, "the same server twice"),
        ({"url": "http://a/v1", "urls": ("http://b/v1",)}, "exactly one"),
        ({"urls": ("http://a/v1", "ftp://b")}, "expected http"),
        ({"url": "https://a/v1", "api": "completions"}, "tokenizer: needed"),
        ({"url": "https://a/v1", "tokenizer": "mini"}, "tokenizer: needed"),
        ({"url": "https://a/v1", "api": "completions", "tokenizer": "mini", "think_open": True}, "think_open"),
    ],
    ids=["twice", "url and urls", "one is no url", "no template", "an idle template", "two say think_open"],
)
def test_a_table_that_contradicts_itself_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        EndpointConfig(model="m", revision="1", **fields)
