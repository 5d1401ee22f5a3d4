"""Bodies: what is asked in OpenAI's chat and text completions, and what counts as a whole answer.

Every answer is checked against its schema; keys nobody asked for are passed over. A choice without
a finish reason, with one that is neither `stop` nor `length`, or without content is a fragment: it
is left out, and its fellows of the same answer are kept.
What is not covered: tool calls, images and audio.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from distill.errors import UserError
from distill.ledger import well_formed
from distill.prompts import Chat, bare
from distill.records import Completion, Message, Params, Record, reason
from distill.sampling.endpoint.config import EndpointConfig
from distill.sampling.endpoint.retry import PassingError

PATHS = {"chat": "/chat/completions", "completions": "/completions"}


class Reply(Record):
    """A part of a server's answer; what nobody asked for is passed over."""

    model_config = ConfigDict(extra="ignore")


class Said(Reply):
    """The assistant's message."""

    content: str | None = None
    reasoning_content: str | None = None
    """The thought, where the server parts it from the answer (DeepSeek's name for it)."""
    reasoning: str | None = None
    """vLLM's newer name for the same."""


class Token(Reply):
    """One sampled token of a chat answer."""

    logprob: float


class ChatLogprobs(Reply):
    """Those of a chat answer, in order, the thought's included."""

    content: tuple[Token, ...] | None = None


class TextLogprobs(Reply):
    """Those of a text completion."""

    token_logprobs: tuple[float, ...] | None = None


class ChatChoice(Reply):
    """One completion of a chat."""

    index: int | None = None
    message: Said
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None

    @property
    def said(self) -> Said:
        """Text and thought."""
        return self.message

    @property
    def token_logprobs(self) -> tuple[float, ...] | None:
        """As the ledger keeps them."""
        content = self.logprobs.content if self.logprobs else None
        return None if content is None else tuple(token.logprob for token in content)


class TextChoice(Reply):
    """One completion of a text."""

    index: int | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: TextLogprobs | None = None

    @property
    def said(self) -> Said:
        """The text; a thought is inline."""
        return Said(content=self.text)

    @property
    def token_logprobs(self) -> tuple[float, ...] | None:
        """As the ledger keeps them."""
        return self.logprobs.token_logprobs if self.logprobs else None


class PromptDetails(Reply):
    """Where the prompt's tokens came from."""

    cached_tokens: int | None = Field(default=None, ge=0)


class Usage(Reply):
    """What it cost."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    """Of all choices together."""
    prompt_tokens_details: PromptDetails | None = None
    prompt_cache_hit_tokens: int | None = Field(default=None, ge=0)
    """DeepSeek's name for cached tokens."""

    @property
    def cached_tokens(self) -> int | None:
        """Of the prompt's tokens those that were not read again, where the server says."""
        details = self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None
        found = self.prompt_cache_hit_tokens if details is None else details
        return None if found is None else min(found, self.prompt_tokens)


class ChatBody(Reply):
    """A whole answer of a chat."""

    choices: tuple[ChatChoice, ...] = Field(min_length=1)
    usage: Usage


class TextBody(Reply):
    """A whole answer of text completions."""

    choices: tuple[TextChoice, ...] = Field(min_length=1)
    usage: Usage


Body = ChatBody | TextBody
BODIES: dict[str, type[Body]] = {"chat": ChatBody, "completions": TextBody}


@dataclass(frozen=True, slots=True)
class Whole:
    """What one call brought."""

    completions: dict[int, Completion]
    """The whole ones, by their number in the call."""
    choices: int
    """How many the server sent, fragments included."""


def ask(
    config: EndpointConfig, messages: Sequence[Message], params: Params, *, n: int, seed: int, chat: Chat | None
) -> bytes:
    """The body of a call for `n` completions. Raises UserError for parameters servers have no common word for."""
    for key in ("repetition_penalty", "top_logprobs"):
        if getattr(params, key) is not None:
            raise UserError(f"endpoint {config.where}: {key}: servers have no common word for it")
    body: dict[str, Any] = {"model": config.model}
    if chat is None:
        if bare(messages):
            raise UserError(f"endpoint {config.where}: a prompt without a chat template needs api = 'completions'")
        body["messages"] = [message.model_dump() for message in messages]
        if messages[-1].role == "assistant":  # vLLM's and SGLang's words; llama.cpp continues unasked
            body.update(continue_final_message=True, add_generation_prompt=False)
    else:
        body["prompt"] = _prompt(chat, messages)
    body.update(max_tokens=params.max_tokens, temperature=params.temperature, top_p=params.top_p)
    if n > 1:
        body["n"] = n
    if config.send_seed:
        body["seed"] = seed
    if params.stop:
        body["stop"] = list(params.stop)
    if config.logprobs:
        body["logprobs"] = True if chat is None else 1
    if config.stream:
        body.update(stream=True, stream_options={"include_usage": True})
    # Not OpenAI's, but vLLM, SGLang and llama.cpp know both; sent only when they matter.
    body.update({key: getattr(params, key) for key in ("top_k", "min_p") if getattr(params, key)})
    return json.dumps(body).encode()


def _prompt(chat: Chat, messages: Sequence[Message]) -> str:
    """A final assistant turn is continued, not answered."""
    if messages[-1].role == "assistant":
        return chat.prompt_text(messages[:-1]) + messages[-1].content
    return chat.prompt_text(messages)


def read(body: bytes, *, api: str, n: int) -> Whole:
    """The whole completions of an answer to a call for `n`. PassingError when there is none, or it fits no call."""
    return whole(parse(body, api), n=n, shown=body)


def parse(body: bytes, api: str) -> Body:
    """An answer by its schema; a lone surrogate in it becomes U+FFFD."""
    schema = BODIES[api]
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        if b"\\ud" in body.lower() and error.errors()[0]["type"] == "json_invalid":
            try:
                return schema.model_validate(well_formed(json.loads(body)))
            except (ValidationError, ValueError, RecursionError):
                pass  # broken in another way too: the first complaint stands
        raise PassingError(f"no whole answer ({reason(error)}): {body[:80]!r}") from error


def whole(answer: Body, *, n: int, shown: bytes) -> Whole:
    """The same of an answer that has its schema; `shown` is quoted in errors."""
    choices: Sequence[ChatChoice | TextChoice] = answer.choices
    numbers = [choice.index if choice.index is not None else place for place, choice in enumerate(choices)]
    if len(set(numbers)) < len(numbers) or not 0 <= min(numbers) <= max(numbers) < n:
        raise PassingError(f"choices numbered {numbers}, expected 0 to {n - 1}, each once")
    found: dict[int, Completion] = {}
    complaint = ""
    shares = _shares(answer)
    for number, choice, tokens in zip(numbers, choices, shares, strict=True):
        said, finish = choice.said, choice.finish_reason
        thought = said.reasoning_content or said.reasoning
        if finish not in ("stop", "length"):
            complaint = f"finish_reason is {finish!r}, expected 'stop' or 'length'"
        elif said.content is None and thought is None:
            complaint = "the message has no content"
        else:
            kept: Literal["stop", "length"] = "stop" if finish == "stop" else "length"
            found[number] = Completion(
                text=said.content or "",
                reasoning=thought,
                finish=kept,
                prompt_tokens=answer.usage.prompt_tokens,
                completion_tokens=tokens,
                logprobs=choice.token_logprobs,
                cached_tokens=answer.usage.cached_tokens,
            )
    if not found:
        raise PassingError(f"{complaint}: {shown[:80]!r}")
    if len(found) > 1:
        found = {number: one.model_copy(update={"together": len(found)}) for number, one in found.items()}
    return Whole(found, len(numbers))


def _shares(answer: Body) -> list[int]:
    """Tokens of each choice, which together are what usage says.

    Servers count all choices of a call together. Log-probabilities tell each one's number; without
    them the whole is shared out by length in bytes.
    """
    total = answer.usage.completion_tokens
    choices: Sequence[ChatChoice | TextChoice] = answer.choices
    if len(choices) == 1:
        return [total]
    counted = [choice.token_logprobs for choice in choices]
    if all(found is not None for found in counted):
        weights = [len(found or ()) for found in counted]
    else:
        texts = [choice.said for choice in choices]
        weights = [
            sum(
                len((part or "").encode(errors="replace"))
                for part in (said.content, said.reasoning_content, said.reasoning)
            )
            for said in texts
        ]
    whole_weight = sum(weights) or 1
    shares = [total * weight // whole_weight for weight in weights]
    by_rest = sorted(range(len(weights)), key=lambda place: -(total * weights[place] % whole_weight))
    for place in by_rest[: total - sum(shares)]:
        shares[place] += 1
    if sum(shares) < total:  # nothing was said at all, yet it cost something
        shares[0] += total - sum(shares)
    return shares
