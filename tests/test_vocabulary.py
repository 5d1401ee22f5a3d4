"""The miniature's tokenizer: exact on everything the families say, and true to the chat contract."""

import random

import pytest

from distill.problems.families import FAMILIES, WIDEST, family
from distill.problems.vocabulary import ROUND_TO, mini_tokenizer, vocabulary
from distill.prompts import Chat, join_thought
from distill.records import Message


@pytest.fixture(scope="module")
def tokenizer():
    return mini_tokenizer()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("world", ["default", "widest"])
def test_every_problem_and_chain_survives_the_tokenizer(tokenizer, name, world):
    kind, rng = family(name, WIDEST[name] if world == "widest" else None), random.Random(1)
    for level in (1, 2, 4, 6, 10):
        for _ in range(30):
            problem = kind.generate(rng, level)
            for chain in (kind.worked(problem), kind.mistake(problem, rng)):
                text = f"{problem.prompt} {join_thought(chain.reasoning, chain.answer)}"
                ids = tokenizer.encode(text)
                assert tokenizer.unk_token_id not in ids
                assert len(ids) == len(text.split())
                assert tokenizer.decode(ids) == text


def test_every_word_a_family_declares_is_one_token(tokenizer):
    for kind in FAMILIES.values():
        for word in kind.words():
            assert tokenizer.decode(tokenizer.encode(word)) == word


def test_the_vocabulary_is_whole_rounds_without_doubles(tokenizer):
    tokens = vocabulary()
    assert len(tokens) == len(set(tokens)) == len(tokenizer)
    assert len(tokens) % ROUND_TO == 0


def test_the_vocabulary_has_a_fixed_order():
    assert vocabulary()[:7] == ["<|pad|>", "<|user|>", "<|assistant|>", "<|end|>", "<|unk|>", "<think>", "</think>"]


def test_padding_is_not_the_end_of_a_turn(tokenizer):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_think_tags_are_words_that_decoding_keeps(tokenizer):
    text = "<think> 7 </think> 9"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_an_unknown_word_is_seen_as_unknown(tokenizer):
    assert tokenizer.encode("Mia has 21 coins")[2] == tokenizer.unk_token_id


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_covers_exactly_the_assistant_words_and_the_end(tokenizer, name):
    kind, chat = family(name), Chat(tokenizer)
    problem = kind.generate(random.Random(2), 3)
    chain = kind.worked(problem)
    said = join_thought(chain.reasoning, chain.answer)
    ids, mask = chat.training_ids(
        (Message(role="user", content=problem.prompt), Message(role="assistant", content=said))
    )
    covered = [token for token, on in zip(ids, mask, strict=True) if on]
    assert tokenizer.decode(covered) == f"{said} <|end|>"
    assert chat.decode(covered) == said


def test_the_prompt_of_sampling_is_the_head_of_training(tokenizer):
    chat = Chat(tokenizer)
    asked, said = Message(role="user", content="Mia has 7 coins ."), Message(role="assistant", content="7")
    prompt = chat.prompt_ids((asked,))
    ids, mask = chat.training_ids((asked, said))
    assert ids[: len(prompt)] == prompt
    assert mask[: len(prompt)] == [0] * len(prompt)
    assert mask[len(prompt) :] == [1, 1]


def test_a_saved_tokenizer_loads_as_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|user|> Mia has 7 coins . <|assistant|> <think> 7 + 5 = 12 ; </think> \\boxed{ 12 } <|end|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.chat_template == tokenizer.chat_template
