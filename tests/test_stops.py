"""Stop strings whose last character is spread over tokens, or shares one with other text."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from distill.prompts import CHATML, Chat
from distill.sampling.engine.stops import StopStrings, cut


@pytest.fixture(scope="module")
def chat() -> Chat:
    """Bytes as tokens, and one merge: `n` + newline."""
    alphabet = sorted(ByteLevel.alphabet())
    vocab = {character: number for number, character in enumerate([*alphabet, "nĊ"])}
    tokenizer = Tokenizer(BPE(vocab, [("n", "Ċ")]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    return Chat(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=CHATML))


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        pytest.param("so é", "é", id="a character of two tokens"),
        pytest.param("1 ∎", " ∎", id="a character of three tokens"),
        pytest.param("then\n", "en", id="the last character is the head of a token"),
        pytest.param("then\n", "n\n", id="a whole token"),
        pytest.param("a b", "a ", id="ends in a space"),
    ],
)
def test_the_token_that_completes_a_stop_string_is_a_candidate(chat: Chat, text: str, stop: str) -> None:
    ids = chat.tokenizer.encode(text, add_special_tokens=False)
    stops = StopStrings(chat, len(chat.tokenizer), torch.device("cpu"))
    number = stops.index(("never", stop))
    completed = next(place for place in range(len(ids)) if stops.found(ids[: place + 1], (stop,)))
    assert stops.candidates(torch.tensor([number]), torch.tensor([ids[completed]])) == [0]


def test_other_tokens_and_rows_without_stops_are_no_candidates(chat: Chat) -> None:
    stops = StopStrings(chat, len(chat.tokenizer), torch.device("cpu"))
    number = stops.index(("x",))
    x, y = chat.tokenizer.encode("xy", add_special_tokens=False)
    assert stops.candidates(torch.tensor([number, number, 0]), torch.tensor([y, x, x])) == [1]


def test_the_earliest_stop_string_cuts() -> None:
    assert cut("one two three", ("three", "two")) == "one "
    assert cut("one two", ("four",)) == "one two"
    assert cut("one two", ()) == "one two"
