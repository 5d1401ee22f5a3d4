"""The miniature's tokenizer: one token a word, each number from 0 to 20 one token.

Covers every word any setting of any family can produce, so a harder world needs no other
tokenizer. Think tags are ordinary words that happen to be atomic: a trained model says
them like any other. Text is words with single spaces; other spacing does not survive.
"""

from typing import TYPE_CHECKING

from distill.problems.families import FAMILIES
from distill.problems.family import LIMIT
from distill.prompts import END_THINK, THINK, WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, USER, ASSISTANT, END, UNKNOWN = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>", "<|unk|>"
ROUND_TO = 32
"""The vocabulary is padded to a multiple of this, so that matrices have friendly shapes."""


def vocabulary() -> list[str]:
    """All tokens, their place being their id; spare ones at the end fill up the last round."""
    numbers = [str(number) for number in range(LIMIT + 1)]
    said = [word for family in FAMILIES.values() for word in family.words()]
    tokens = list(dict.fromkeys([PAD, USER, ASSISTANT, END, UNKNOWN, THINK, END_THINK, *numbers, *said]))
    spare = -len(tokens) % ROUND_TO
    return [*tokens, *(f"<|spare-{number}|>" for number in range(spare))]


def mini_tokenizer() -> "PreTrainedTokenizerFast":
    """A fresh tokenizer with its chat template; `len(tokenizer)` is the vocabulary size of a model."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    ids = {token: number for number, token in enumerate(vocabulary())}
    words = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=WORDS,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
