"""One request a server refuses is told apart from a server that refuses everything."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from distill.errors import UserError
from distill.records import Message, Params
from distill.sampling.endpoint import EndpointConfig, EndpointSampler
from distill.sampling.endpoint.doubt import IN_A_ROW
from distill.sampling.protocols import Answered, Request
from tests.hostile_server import GOOD, Handler, serving

LONG = {"error": {"message": "This model's maximum context length is 128 tokens", "code": "context_length_exceeded"}}


def refuses_long(handler: Handler, body: dict[str, Any]) -> None:
    """Takes everything but prompts that say they are long."""
    said = body["messages"][0]["content"]
    if "long" in said:
        return handler.reply(LONG, 400)
    choices = [{"index": k, **GOOD["choices"][0]} for k in range(body.get("n", 1))]
    return handler.reply({**GOOD, "choices": choices})


def ask(url: str, prompts: Sequence[str], n: int = 1, **fields: Any) -> list[Answered]:
    config = EndpointConfig(url=url, model="m", revision="1", **{"concurrency": 4, **fields})
    requests = (
        Request(f"p{number}", (Message(role="user", content=prompt),), Params(max_tokens=9), n, seed=10 * number)
        for number, prompt in enumerate(prompts)
    )
    return sorted(EndpointSampler(config).sample(requests), key=lambda answered: int(answered.request.id[1:]))


def hellos(server: Any) -> int:
    return sum(body["messages"][0]["content"] == "Say hello." for _, _, body, _ in server.calls)


def test_one_prompt_too_long_stops_nothing_and_is_not_asked_again() -> None:
    with serving(refuses_long) as server:
        answers = ask(server.url, ["short"] * 5 + ["long"] + ["short"] * 20)
    assert [bool(answered.refused) for answered in answers] == [number == 5 for number in range(26)]
    assert "context_length_exceeded" in answers[5].refused
    assert "127.0.0.1" not in answers[5].refused, "it is stored, and addresses never are"
    assert [completion.finish for completion in answers[5].completions] == ["cancelled"]
    assert Counter(body["messages"][0]["content"] for _, _, body, _ in server.calls)["long"] == 1


def test_prompts_that_are_all_too_long_are_refused_one_by_one_after_a_short_question() -> None:
    count = 3 * IN_A_ROW
    with serving(refuses_long) as server:
        answers = ask(server.url, ["long"] * count)
    assert all(answered.refused for answered in answers)
    assert len(answers) == count
    assert 2 <= hellos(server) <= 4, "asked before the first is believed, and once in a while"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_server_that_refuses_everything_stops_the_harvest_at_once(status: int) -> None:
    def refuses(handler: Handler, body: dict[str, Any]) -> None:
        handler.reply({"error": "Model Not Exist"}, status)

    with serving(refuses) as server:
        with pytest.raises(UserError, match=rf"status {status}; expected 200: .*Model Not Exist.*; so is a short") as e:
            ask(server.url, ["x"] * 200)
        assert len(server.calls) <= 10
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_status_that_speaks_of_the_caller_needs_no_question(status: int) -> None:
    def refuses(handler: Handler, body: dict[str, Any]) -> None:
        handler.reply({"error": "no"}, status)

    with serving(refuses) as server:
        with pytest.raises(UserError, match=rf"status {status}; expected 200"):
            ask(server.url, ["x"] * 50)
        assert hellos(server) == 0


def test_a_server_that_turns_against_everything_in_mid_harvest_is_noticed() -> None:
    calls = 0

    def turns(handler: Handler, body: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        return handler.reply(GOOD) if calls <= 20 else handler.reply({"error": "quota"}, 400)

    with serving(turns) as server:
        with pytest.raises(UserError, match=r"quota.*so is a short question"):
            ask(server.url, ["x"] * 500)
        assert len(server.calls) < 20 + IN_A_ROW + 10


def test_a_long_prompt_among_calls_for_several_samples_does_not_end_those() -> None:
    with serving(refuses_long) as server:
        answers = ask(server.url, ["short", "long", *["short"] * 10], n=3, per_call=3)
        sizes = Counter(body.get("n", 1) for _, _, body, _ in server.calls if "long" not in str(body))
    assert [bool(answered.refused) for answered in answers] == [number == 1 for number in range(12)]
    assert sizes[3] == 11, "one sample alone told that it was the prompt, not `n`"


def test_a_prompt_refused_for_most_of_its_samples_keeps_those_that_came() -> None:
    def fickle(handler: Handler, body: dict[str, Any]) -> None:
        return handler.reply(LONG, 400) if body["seed"] in (11, 12) else handler.reply(GOOD)

    with serving(fickle) as server:
        first, second = ask(server.url, ["x", "y"], n=3)
    assert [completion.finish for completion in second.completions] == ["stop", "cancelled", "cancelled"]
    assert second.refused
    assert not first.refused
