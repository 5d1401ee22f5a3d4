"""A truncated thought goes on where it stopped, and what was truncated stays as it was."""

import http.server
import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from distill.harvest import HarvestConfig, harvest
from distill.harvest.forcing import whole
from distill.jsonl import write_jsonl
from distill.ledger import read_ledger
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.prompts import CHATML, WORDS, Chat, to_trace
from distill.records import Completion, Message, Params, Problem, SamplerId, Trace, Verdict
from distill.sampling.endpoint import EndpointConfig, EndpointSampler
from distill.sampling.engine import EngineSampler
from distill.sampling.protocols import Answered, LoadedModel, Request
from students.decoder import KVDecoder
from tests.one_by_one import toy_student
from tests.test_rounds import Comparing

QUIET = Progress("quiet")
WORK = ["<think>", "1", "+", "1", "=", "2", ";", "2", "+", "1", "=", "3", ";", "</think>", "3"]
PROBLEMS = [
    Problem(id=f"p{number}", kind="answer", prompt=f"{number} + 3", answer="3", source="x", split="train")
    for number in range(3)
]


class Slow:
    """Says one known text a word at a time, from wherever it is asked to go on."""

    identity = SamplerId(name="slow", revision="1")
    think_open = False

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        for request in requests:
            self.asked.append(request)
            last = request.messages[-1]
            done = len(last.content.split()) if last.role == "assistant" else 0
            said = WORK[done : done + request.params.max_tokens]
            finish = "stop" if done + len(said) == len(WORK) else "length"
            text = (" " if done else "") + " ".join(said)
            spoken = Completion(text=text, finish=finish, prompt_tokens=3 + done, completion_tokens=len(said))
            yield Answered(request, (spoken,) * request.n)


def config(**tables: Any) -> HarvestConfig:
    known = {"problems": "p", "sampler": "engine", "model": "m", "max_tokens": 5}
    return HarvestConfig.model_validate({**known, **tables})


def run(out: Path, settings: HarvestConfig, sampler: Any) -> list[Trace]:
    out.mkdir(exist_ok=True)
    write_jsonl(out / "problems.jsonl", PROBLEMS)
    harvest(out, out, settings, sampler=sampler, judge=Comparing(), seed=0, progress=QUIET)
    return list(read_ledger(out / "traces", Trace))


def test_a_cut_thought_goes_on_as_a_child_and_the_parent_stays_truncated(tmp_path: Path) -> None:
    traces = run(tmp_path, config(forcing={"max_tokens": 6, "times": 3}), Slow())
    verdicts = {row.trace_id: row.status for row in read_ledger(tmp_path / "verdicts", Verdict)}
    chain = [trace for trace in traces if trace.problem_id == "p0"]
    assert [trace.text.split() for trace in chain] == [WORK[:5], WORK[:11], WORK]
    assert [trace.finish for trace in chain] == ["length", "length", "stop"]
    assert [trace.parent for trace in chain] == [None, chain[0].id, chain[1].id]
    assert [verdicts[trace.id] for trace in chain] == ["truncated", "truncated", "correct"]
    assert [trace.completion_tokens for trace in chain] == [5, 11, 15]
    assert {trace.prompt_tokens for trace in chain} == {3}, "of the problem, not of what was already said"


def test_tokens_of_a_beginning_are_paid_once(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "problems.jsonl", PROBLEMS)
    settings = config(forcing={"max_tokens": 6, "times": 3})
    done = harvest(tmp_path, tmp_path, settings, sampler=Slow(), judge=Comparing(), seed=0, progress=QUIET)
    assert done.tokens == done.counts["tokens"] == len(WORK) * len(PROBLEMS)


def test_what_went_on_is_not_asked_again_on_a_resume(tmp_path: Path) -> None:
    settings = config(forcing={"max_tokens": 6, "times": 3})
    traces, sampler = run(tmp_path, settings, Slow()), Slow()
    assert (run(tmp_path, settings, sampler), sampler.asked) == (traces, [])


def test_a_thought_goes_on_no_more_often_than_it_may(tmp_path: Path) -> None:
    traces = run(tmp_path, config(forcing={"max_tokens": 1, "times": 2}), Slow())
    assert sorted(len(trace.text.split()) for trace in traces if trace.problem_id == "p0") == [5, 6, 7]


def test_a_trace_cut_right_behind_its_answer_is_right_already(tmp_path: Path) -> None:
    class Endless(Slow):
        def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
            for answered in super().sample(requests):
                said = (done.model_copy(update={"finish": "length"}) for done in answered.completions)
                yield Answered(answered.request, tuple(said))

    class Patient(Comparing):
        def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
            for _, trace in pairs:
                yield Verdict(trace_id=trace.id, judge_version="1", status="correct" if trace.answer else "truncated")

    write_jsonl(tmp_path / "problems.jsonl", PROBLEMS)
    settings = config(max_tokens=15, forcing={"max_tokens": 6})
    done = harvest(tmp_path, tmp_path, settings, sampler=Endless(), judge=Patient(), seed=0, progress=QUIET)
    assert (done.counts["correct"], done.counts["traces"]) == (3, 3)


def test_a_problem_that_has_enough_is_not_continued(tmp_path: Path) -> None:
    traces = run(tmp_path, config(max_tokens=14, rounds={"samples": [2], "until_verified": 1}), Slow())
    assert {trace.parent for trace in traces} == {None}


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(mini_tokenizer())


@pytest.fixture(scope="module")
def model(chat: Chat) -> LlamaForCausalLM:
    return toy_student(chat)


def test_the_engine_goes_on_as_if_it_had_never_stopped(model: LlamaForCausalLM, chat: Chat) -> None:
    """Greedy: the beginning and its continuation are one long sample, token by token."""
    loaded = LoadedModel(model=model, tokenizer=chat.tokenizer, folder=Path(), fingerprint="toy")
    sampler = EngineSampler(loaded, KVDecoder(model), name="toy", slots=2, capacity=48)
    asked = (Message(role="user", content="1 + 2 + 3"),)

    def say(messages: tuple[Message, ...], tokens: int) -> Completion:
        (answered,) = sampler.sample([Request("p", messages, Params(max_tokens=tokens, temperature=0.0))])
        return answered.completions[0]

    begun, long = say(asked, 6), say(asked, 15)
    assert begun.finish == "length"
    where = {"id": "t", "problem_id": "p", "sampler": sampler.identity, "params": None, "sample_index": 0}
    parent = to_trace(begun, think_open=False, **where)
    rest = say((*asked, Message(role="assistant", content=begun.text)), 9)
    joined = whole(parent, "", rest)
    assert (joined.text, joined.token_ids, joined.finish) == (long.text, long.token_ids, long.finish)
    assert joined.logprobs == pytest.approx(long.logprobs, abs=1e-4)
    assert (joined.prompt_tokens, joined.completion_tokens) == (long.prompt_tokens, long.completion_tokens)


class Template:
    """A tokenizer that shows what it would encode, its template opening the thought as R1's does."""

    eos_token_id = 0

    def __init__(self, template: str, opening: str = "") -> None:
        self.chat_template, self.opening = template, opening

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        from jinja2 import Template as Jinja

        plain = self.chat_template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        return Jinja(plain).render(messages=messages, add_generation_prompt=True) + self.opening


@pytest.mark.parametrize(
    ("template", "opening", "expected"),
    [
        pytest.param(WORDS, "", "<|user|> q <|assistant|> so far", id="words"),
        pytest.param(CHATML, "", "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nso far", id="chatml"),
        pytest.param(
            WORDS, "<think>\n", "<|user|> q <|assistant|> <think>\nso far", id="the template opens the thought"
        ),
    ],
)
def test_an_unfinished_turn_is_left_open(template: str, opening: str, expected: str) -> None:
    messages = (Message(role="user", content="q"), Message(role="assistant", content="so far"))
    assert Chat(Template(template, opening)).prompt_text(messages) == expected


def parent(text: str, **fields: Any) -> Trace:
    known = {"id": "t", "problem_id": "p", "sampler": {"name": "s", "revision": "1"}, "params": None}
    numbers = {"sample_index": 0, "prompt_tokens": 3, "completion_tokens": 2, "reasoning": None, "answer": None}
    return Trace.model_validate({**known, **numbers, "text": text, "finish": "length", **fields})


def rest(text: str, **fields: Any) -> Completion:
    known = {"finish": "stop", "prompt_tokens": 9, "completion_tokens": 2}
    return Completion.model_validate({"text": text, **known, **fields})


def test_a_server_that_parts_the_thought_gets_it_back_into_one_text() -> None:
    joined = whole(parent("<think> a"), "", rest("7", reasoning=" b"))
    assert (joined.text, joined.reasoning) == ("<think> a b </think> 7", None)
    assert whole(parent("<think> a"), "", rest("", reasoning=" b")).text == "<think> a b"


def test_words_put_between_are_in_the_text_and_make_token_ids_unknown() -> None:
    joined = whole(parent("<think> a", token_ids=[1, 2]), " Wait ,", rest(" b", token_ids=[3]))
    assert (joined.text, joined.token_ids) == ("<think> a Wait , b", None)
    assert whole(parent("a", token_ids=[1, 2]), "", rest(" b", token_ids=[3])).token_ids == (1, 2, 3)


def test_a_server_is_asked_to_leave_the_turn_open() -> None:
    """vLLM and SGLang would otherwise begin another assistant turn behind it."""
    bodies: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            choice = {"index": 0, "message": {"role": "assistant", "content": " b"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            said = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        settings = {"url": f"http://127.0.0.1:{server.server_port}/v1", "model": "m", "revision": "1"}
        asked = Message(role="user", content="q"), Message(role="assistant", content="a")
        sampler = EndpointSampler(EndpointConfig.model_validate(settings))
        list(sampler.sample([Request("p", asked[: count + 1], Params(max_tokens=3)) for count in (0, 1)]))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    by_turns = {len(body["messages"]): body for body in bodies}
    assert "continue_final_message" not in by_turns[1]
    assert (by_turns[2]["continue_final_message"], by_turns[2]["add_generation_prompt"]) == (True, False)
