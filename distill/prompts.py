"""The chat contract: one place where a conversation becomes tokens, and text becomes thought and answer.

Harvest, training, evaluation, export and server all render through `Chat`; a test proves
that they get the same token ids. Templates carry `{% generation %}` marks with the
end-of-turn token inside them, so that the training loss covers exactly what a sampler
would have had to say, its stopping included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.errors import UserError
from distill.records import Completion, Finish, Message, Trace

THINK, END_THINK = "<think>", "</think>"

STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."
"""The user-turn instruction DeepSeek recommends for mathematics (DeepSeek-R1 README, usage)."""

CHATML = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{{ '' if loop.last else '\n' }}"
    "{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen and SmolLM turns with generation marks and no invented system prompt. The line break behind a turn is an
expression, since templates are rendered without the one behind a block; nothing stands behind the last turn."""

WORDS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|> "
    "{% generation %}{{ m['content'] }} <|end|>{% endgeneration %}"
    "{% else %}<|user|> {{ m['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
"""Turns of the miniature's word-level tokenizer."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A completion taken apart. `answer` is None when the thought never ended."""

    reasoning: str | None
    answer: str | None


def split_thought(text: str, *, think_open: bool = False) -> Parts:
    """Thought and answer of an assistant text.

    Without any think tag the whole text is the answer; a lone `</think>` ends a thought the
    prompt had opened; a thought that never ends leaves no answer.
    """
    if END_THINK in text:
        thought, _, answer = text.partition(END_THINK)
        return Parts(thought.replace(THINK, "", 1).strip(), answer.strip())
    if THINK in text or think_open:
        return Parts(None, None)
    return Parts(None, text.strip())


def join_thought(reasoning: str | None, answer: str) -> str:
    """The assistant text of a thought and an answer: inverse of `split_thought`."""
    return answer if reasoning is None else f"{THINK} {reasoning} {END_THINK} {answer}"


def unfinished(text: str, finish: Finish, *, think_open: bool = False) -> bool:
    """True when the thought was cut by the token limit."""
    return finish == "length" and split_thought(text, think_open=think_open).answer is None


def to_trace(completion: Completion, *, think_open: bool, **where: Any) -> Trace:
    """A completion as a trace. A thought the server returned apart goes back into the text."""
    text = completion.text
    parts = split_thought(text, think_open=think_open)
    if completion.reasoning:
        parts = Parts(completion.reasoning.strip(), text.strip()) if text.strip() else Parts(None, None)
        text = join_thought(completion.reasoning, text) if text.strip() else f"{THINK} {completion.reasoning}"
        think_open = False
    said = completion.model_dump(exclude={"text", "reasoning"})
    return Trace(reasoning=parts.reasoning, answer=parts.answer, text=text, think_open=think_open, **said, **where)


@dataclass(frozen=True, slots=True)
class Turn:
    """An assistant's turn as a model is trained to say it: tokens and the text they spell."""

    token_ids: list[int]
    """The conversation from its beginning to the end of this turn."""
    first: int
    """Index of the turn's first token: those from here on carry loss."""
    text: str
    """What the turn's tokens spell, the end-of-turn token left out."""
    last_characters: list[int]
    """For each token of the turn, where in `text` its last character stands; the end-of-turn token's is behind it."""


class Chat:
    """A tokenizer's side of the contract."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "the tokenizer has no chat template; set one in tokenizer_config.json (distill.prompts ships CHATML)"
            )
        self.tokenizer = tokenizer
        self.end_id: int = tokenizer.eos_token_id

    @property
    def think_open(self) -> bool:
        """True when the generation prompt itself opens the think block (R1's template does)."""
        return self.prompt_text((Message(role="user", content="x"),)).rstrip().endswith(THINK)

    @property
    def end_think(self) -> int | None:
        """The token that closes a thought; None where the tokenizer has none and spells it."""
        ids = list(self.tokenizer.encode(END_THINK, add_special_tokens=False))
        return ids[0] if len(ids) == 1 else None

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The text a model continues with its turn, or with the rest of it where the last turn is its own.

        A `text` is the prompt itself.
        """
        if bare(messages):
            return messages[0].content
        if messages[-1].role == "assistant":
            return self.prompt_text(messages[:-1]) + messages[-1].content
        return str(self.tokenizer.apply_chat_template(_dicts(messages), tokenize=False, add_generation_prompt=True))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of `prompt_text`; special tokens come from the template alone.

        A `text` has no template, so it gets those the tokenizer puts around any text.
        """
        return list(self.tokenizer.encode(self.prompt_text(messages), add_special_tokens=bare(messages)))

    def training_ids(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Token ids of a whole conversation and a 0/1 mask of the tokens that carry loss."""
        encoded = self.tokenizer.apply_chat_template(
            _dicts(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return list(encoded["input_ids"]), list(encoded["assistant_masks"])

    def turn(self, messages: Sequence[Message]) -> Turn:
        """The last turn of a conversation, with the tokens `training_ids` gives and where they stand in the text.

        Raises UserError when the template marks no assistant turn, or the tokenizer tells no places.
        """
        ids, mask = self.training_ids(messages)
        if not any(mask):
            raise UserError(
                "no token carries loss; the chat template needs {% generation %} around assistant turns "
                "(distill.prompts ships CHATML)"
            )
        rendered = str(self.tokenizer.apply_chat_template(_dicts(messages), tokenize=False))
        placed = self.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
        assert placed["input_ids"] == ids, "one template, one tokenizer"
        stop = len(mask) - mask[::-1].index(1)
        first = stop - (mask[:stop][::-1].index(0) if 0 in mask[:stop] else stop)
        places = placed["offset_mapping"][first:stop]
        begin, end = places[0][0], places[-1][0] if ids[stop - 1] == self.end_id else places[-1][1]
        lasts = [max(start, past - 1) - begin for start, past in places]
        return Turn(ids[:stop], first, rendered[begin:end], lasts)

    def decode_after(self, so_far: str, token_ids: Sequence[int]) -> str:
        """Text of tokens that continue `so_far`, with whatever parts the two: a space between words, say."""
        before = list(self.tokenizer.encode(so_far, add_special_tokens=False))
        return self.decode([*before, *token_ids])[len(self.decode(before)) :]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion without its end-of-turn token; think tags stay."""
        ids = list(token_ids)
        if ids and ids[-1] == self.end_id:
            ids.pop()
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))


def bare(messages: Sequence[Message]) -> bool:
    """Whether a conversation is no conversation but a text to go on with. Nothing stands beside one."""
    found = any(message.role == "text" for message in messages)
    assert not found or len(messages) == 1, "a text stands alone"
    return found


def _dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [message.model_dump() for message in messages]
