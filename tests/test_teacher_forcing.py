"""Scores of many sequences are those of one by one, and those of the model's own loss."""

from collections.abc import Iterator

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.sampling import teacher_forcing
from distill.sampling.teacher_forcing import score_many
from tests.one_by_one import toy_student, toy_teacher

MODELS = ("llama", "qwen2", "teacher")


def toy(name: str) -> torch.nn.Module:
    chat = Chat(mini_tokenizer())
    if name == "llama":
        return toy_student(chat)
    if name == "teacher":
        return toy_teacher(chat)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=len(chat.tokenizer), num_key_value_heads=1, initializer_range=0.3, **sizes)
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    return toy(request.param)


def sequences(count: int = 40) -> list[list[int]]:
    """Of 2 to 60 tokens, in no order."""
    generator = torch.Generator().manual_seed(1)
    lengths = [2, 60, *torch.randint(2, 60, (count - 2,), generator=generator).tolist()]
    return [torch.randint(5, 90, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("name", MODELS)
def test_many_sequences_score_as_one_by_one(name: str) -> None:
    """In float64, where what stands beside a sequence can only show as a mistake."""
    model = toy(name).double()
    if name == "teacher":
        model.set_experts_backend("reference")  # the grouped product has no float64
    asked = sequences()
    for ids, many in zip(asked, score_many(model, asked, 4), strict=True):
        alone = next(score_many(model, [ids], 4))
        torch.testing.assert_close(many.logprobs, alone.logprobs, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(many.top_logprobs, alone.top_logprobs, rtol=1e-6, atol=1e-6)
        assert torch.equal(many.top_ids, alone.top_ids)


def test_the_loss_is_the_one_transformers_computes(model: torch.nn.Module) -> None:
    asked = sequences(12)
    for ids, scores in zip(asked, score_many(model, asked, 1), strict=True):
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
        assert -float(scores.logprobs.mean()) == pytest.approx(float(loss), abs=1e-5)


def test_a_head_applied_in_pieces_says_the_same(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sequences(6)
    whole = list(score_many(model, asked, 3))
    monkeypatch.setattr(teacher_forcing, "HEAD_VALUES", 7 * model.config.vocab_size)
    for pieces, once in zip(score_many(model, asked, 3), whole, strict=True):
        torch.testing.assert_close(pieces.logprobs, once.logprobs)
        assert torch.equal(pieces.top_ids, once.top_ids)


def test_a_model_whose_calls_are_watched_is_called_whole(model: torch.nn.Module) -> None:
    """As a teacher split over processes is: the others must hear of it."""
    asked, calls = sequences(6), list[int]()
    unwatched = list(score_many(model, asked, 3))
    watching = model.register_forward_pre_hook(lambda *_: calls.append(1))
    watched = list(score_many(model, asked, 3))
    watching.remove()
    assert calls
    for one, other in zip(watched, unwatched, strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs)


def test_reading_ahead_is_bounded_in_sequences_and_in_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_forcing, "WINDOW", 8)
    monkeypatch.setattr(teacher_forcing, "WINDOW_TOKENS", 50)
    read: list[int] = []

    def source() -> Iterator[list[int]]:
        for length in (10, 10, 10, 10, 10, 60, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2):
            read.append(length)
            yield list(range(5, 5 + length))

    ahead = [len(read) - answered for answered, _ in enumerate(score_many(toy("llama"), source(), 1))]
    assert len(read) == len(ahead) == 16
    assert max(ahead) == 8
    assert ahead[0] == 5, "five sequences fill the tokens"


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        pytest.param([5], "at least 2 tokens", id="nothing to predict"),
        pytest.param([5, 10**6], "outside the model's vocabulary", id="another tokenizer's id"),
    ],
)
def test_a_sequence_that_cannot_be_scored_is_refused(ids: list[int], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        next(score_many(toy("llama"), [ids], 1))
