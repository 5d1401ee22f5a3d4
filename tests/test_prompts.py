"""The chat contract: thought and answer come apart and together the same way everywhere."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import CHATML, Chat, Parts, join_thought, split_thought, unfinished
from distill.records import Message


@pytest.mark.parametrize(
    ("text", "think_open", "parts"),
    [
        pytest.param("<think> a </think> 7", False, Parts("a", "7"), id="complete"),
        pytest.param("a </think> 7", True, Parts("a", "7"), id="opened by the prompt"),
        pytest.param("a </think> 7", False, Parts("a", "7"), id="lone end tag"),
        pytest.param("7", False, Parts(None, "7"), id="no thought"),
        pytest.param("<think> a 7", False, Parts(None, None), id="never ended"),
        pytest.param("a 7", True, Parts(None, None), id="opened by the prompt, never ended"),
        pytest.param("<think></think>", False, Parts("", ""), id="empty both"),
        pytest.param(
            "<think> a </think> b </think> 7", False, Parts("a", "b </think> 7"), id="two ends: the first counts"
        ),
    ],
)
def test_split(text: str, think_open: bool, parts: Parts) -> None:
    assert split_thought(text, think_open=think_open) == parts


def test_join_is_the_inverse_of_split() -> None:
    assert split_thought(join_thought("1 + 1 = 2 ;", "2")) == Parts("1 + 1 = 2 ;", "2")
    assert split_thought(join_thought(None, "2")) == Parts(None, "2")


def test_a_thought_cut_by_the_limit_is_unfinished_and_a_cut_answer_is_not() -> None:
    assert unfinished("<think> a", "length")
    assert not unfinished("<think> a", "stop")
    assert not unfinished("<think> a </think> 1", "length")


def test_a_turn_knows_its_tokens_and_where_they_stand() -> None:
    chat = Chat(mini_tokenizer())
    text = "<think> 1 + 2 = 3 ; </think> 3"
    messages = (Message(role="user", content="Evaluate 1 + 2 ."), Message(role="assistant", content=text))
    turn = chat.turn(messages)
    ids, mask = chat.training_ids(messages)
    assert turn.token_ids == ids
    assert turn.token_ids[turn.first :] == [token for token, loss in zip(ids, mask, strict=True) if loss]
    assert turn.text.rstrip() == text
    words = [turn.text[: last + 1].split()[-1] for last in turn.last_characters[:-1]]
    assert words == text.split()
    assert turn.last_characters[-1] >= len(turn.text), "the end-of-turn token spells nothing"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, as the rarest words of Qwen's and Llama's tokenizers are spelled."""
    alphabet = {letter: id for id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_ = Tokenizer(models.BPE(alphabet, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    turns = ["<|im_start|>", "<|im_end|>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_, eos_token=turns[1], additional_special_tokens=turns, chat_template=CHATML
    )


def test_a_turn_spelled_in_bytes_knows_where_its_characters_end() -> None:
    text = "<think> déjà.\n∑ = 3 </think>\n\n42"
    turn = Chat(byte_tokenizer()).turn((Message(role="user", content="?"), Message(role="assistant", content=text)))
    assert turn.text == text
    assert len(turn.last_characters) == len(text.encode()) + 1
    assert turn.last_characters == sorted(turn.last_characters)
    assert turn.last_characters[-1] >= len(text)
    answer = [last for last in turn.last_characters if last >= text.index("</think>") + len("</think>")]
    assert len(answer) == len("\n\n42") + 1


PUBLISHED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML as SmolLM2's and Qwen2.5's files write it, and llama.cpp with them, their own system prompt left out."""


@pytest.mark.parametrize("roles", ["user", "system user", "user assistant user", "system user assistant user"])
def test_chatml_asks_for_every_turn_in_the_words_of_published_files(roles: str) -> None:
    ours, theirs = byte_tokenizer(), byte_tokenizer()
    theirs.chat_template = PUBLISHED
    asked = tuple(Message(role=role, content=f"{role} {k}") for k, role in enumerate(roles.split()))  # type: ignore[arg-type]
    assert Chat(ours).prompt_text(asked) == Chat(theirs).prompt_text(asked)
    answered = (*asked, Message(role="assistant", content="so"))
    ids, mask = Chat(ours).training_ids(answered)
    assert ids[: len(Chat(ours).prompt_ids(asked))] == Chat(ours).prompt_ids(asked), "trained on what is served"
    said = [message.content + "<|im_end|>" for message in answered if message.role == "assistant"]
    assert ours.decode([token for token, loss in zip(ids, mask, strict=True) if loss]) == "".join(said)
    assert ids[-1] == ours.eos_token_id
