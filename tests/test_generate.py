"""Transformers' generate as a sampler says what the engine says, and refuses what it should."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.checkpoints import Lineage, save_checkpoint
from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.records import Completion, Message, Params
from distill.sampling.engine import EngineSampler
from distill.sampling.generate import GenerateSampler
from distill.sampling.protocols import LoadedModel, Request
from students.loader import load_student
from teacher.decoder import LatentDecoder
from teacher.loader import load_teacher
from tests.teacher_folders import make

WORDS = ("two", "plus", "three", "is", "five", "four")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher")
    model = make()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" not in name and "embed" not in name:
                tensor.mul_(3.0)  # a model of some opinion: fresh ones find every token as likely
    save_checkpoint(model, mini_tokenizer(), path, Lineage(name="t", stage="teacher-init"))
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_student(folder)


def requests(params: Params, count: int = 9, n: int = 2) -> Iterator[Request]:
    for number in range(count):
        text = " ".join(str(place % 20) for place in range(3 + 5 * number % 17))
        yield Request(f"p{number}", (Message(role="user", content=text),), params, n, seed=100 * number)


def speak(sampler: Any, asked: Iterator[Request]) -> dict[str, tuple[Completion, ...]]:
    return {answered.request.id: answered.completions for answered in sampler.sample(asked)}


def close(one: Completion, other: Completion) -> None:
    assert one.model_copy(update={"logprobs": None}) == other.model_copy(update={"logprobs": None})
    assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


PARAMS = [
    Params(max_tokens=12, temperature=0.0),
    Params(max_tokens=12),
    Params(max_tokens=12, temperature=1.3, top_p=0.8, top_k=40, min_p=0.01),
    Params(max_tokens=12, repetition_penalty=1.3),
]


@pytest.mark.parametrize("params", PARAMS, ids=["greedy", "warm", "filters", "penalty"])
def test_a_deepseek_folder_says_in_transformers_what_it_says_in_the_engine(
    params: Params, folder: Path, loaded: LoadedModel
) -> None:
    assert type(loaded.model).__name__ == "DeepseekV3ForCausalLM", "transformers' own"
    ours = load_teacher(folder)
    engine = EngineSampler(ours, LatentDecoder(ours.model), name="t", slots=8, capacity=64)
    theirs = GenerateSampler(loaded, name="t", batch=5)
    assert engine.identity == theirs.identity
    expected, found = speak(engine, requests(params)), speak(theirs, requests(params))
    assert found.keys() == expected.keys()
    for name, completions in expected.items():
        for one, other in zip(completions, found[name], strict=True):
            close(one, other)


def test_a_sample_does_not_depend_on_what_is_generated_beside_it(loaded: LoadedModel) -> None:
    params = Params(max_tokens=10)
    alone = speak(GenerateSampler(loaded, name="t", batch=1), requests(params))
    beside = speak(GenerateSampler(loaded, name="t", batch=64), requests(params))
    for name, completions in alone.items():
        for one, other in zip(completions, beside[name], strict=True):
            close(one, other)


def test_ends_and_limits_are_told_apart(loaded: LoadedModel) -> None:
    found = speak(GenerateSampler(loaded, name="t", batch=8), requests(Params(max_tokens=40), n=8))
    end = Chat(mini_tokenizer()).end_id
    kinds = set()
    for completion in (one for many in found.values() for one in many):
        ids = completion.token_ids or ()
        kinds.add(completion.finish)
        assert (completion.finish == "stop") == (ids[-1] == end)
        assert end not in ids[:-1]
        assert len(ids) == completion.completion_tokens == len(completion.logprobs or ()) <= 40
    assert kinds == {"stop", "length"}


def test_a_stop_string_ends_a_sample_where_the_engine_ends_it(folder: Path, loaded: LoadedModel) -> None:
    free = speak(GenerateSampler(loaded, name="t", batch=8), requests(Params(max_tokens=20)))
    word = free["p0"][0].text.split()[3]
    params = Params(max_tokens=20, stop=(word,))
    ours = load_teacher(folder)
    engine = EngineSampler(ours, LatentDecoder(ours.model), name="t", slots=8, capacity=64)
    expected = speak(engine, requests(params))
    found = speak(GenerateSampler(loaded, name="t", batch=8), requests(params))
    assert found["p0"][0].completion_tokens < free["p0"][0].completion_tokens
    for name, completions in expected.items():
        for one, other in zip(completions, found[name], strict=True):
            close(one, other)


def test_a_begun_turn_is_continued(loaded: LoadedModel) -> None:
    params = Params(max_tokens=12, temperature=0.0)
    (asked,) = requests(params, count=1, n=1)
    sampler = GenerateSampler(loaded, name="t", batch=2)
    whole = speak(sampler, iter([asked]))["p0"][0]
    begun = sampler.chat.decode(list(whole.token_ids or ())[:5])
    more = Request("p0", (*asked.messages, Message(role="assistant", content=begun)), params)
    rest = speak(sampler, iter([more]))["p0"][0]
    assert whole.text.startswith(begun + rest.text[: len(whole.text) - len(begun)])


def test_a_prompt_beyond_the_context_is_refused_alone(loaded: LoadedModel) -> None:
    sampler = GenerateSampler(loaded, name="t", batch=4)
    assert sampler.context is not None
    long = Request("long", (Message(role="user", content="1 " * sampler.context),), Params(max_tokens=5), n=2)
    (short,) = requests(Params(max_tokens=5), count=1)
    refused, said = sampler.sample([long, short])
    assert f"beyond a context of {sampler.context}" in refused.refused
    assert [completion.finish for completion in refused.completions] == ["cancelled", "cancelled"]
    assert (said.request, said.refused) == (short, "")


def test_what_the_folder_says_about_sampling_is_left_out(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    said = json.loads((folder / "generation_config.json").read_text())
    said |= {"do_sample": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 2.0, "max_new_tokens": 3}
    (copy / "generation_config.json").write_text(json.dumps(said))
    params = Params(max_tokens=9)
    one = speak(GenerateSampler(load_student(folder), name="t", batch=4), requests(params))
    other = speak(GenerateSampler(load_student(copy), name="t", batch=4), requests(params))
    assert one == other


def test_it_says_what_it_cannot_do(loaded: LoadedModel) -> None:
    sampler = GenerateSampler(loaded, name="t", batch=4)
    with pytest.raises(UserError, match="does not score"):
        list(sampler.score_many([[1, 2]], 1))
    with pytest.raises(UserError, match="top_logprobs"):
        list(sampler.sample(requests(Params(max_tokens=3, top_logprobs=2))))
