"""Stream: an answer that came as server-sent events, put together again.

Format: WHATWG HTML, section 9.2 (server-sent events), with OpenAI's chunks as data and `[DONE]`
at the end. The result is held to the same rules as an answer in one piece: a choice
without a finish reason, or a stream without usage, is no whole answer however cleanly it ended.
Events are put together once the stream has ended: nothing of an unfinished one is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from distill.records import reason
from distill.sampling.endpoint.bodies import BODIES, ChatLogprobs, Reply, Said, TextLogprobs, Usage, Whole, whole
from distill.sampling.endpoint.retry import PassingError


class ChatPiece(Reply):
    """What a chunk adds to one choice of a chat."""

    index: int = 0
    delta: Said = Said()
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None


class TextPiece(Reply):
    """What a chunk adds to one choice of a text."""

    index: int = 0
    text: str | None = None
    finish_reason: str | None = None
    logprobs: TextLogprobs | None = None


class ChatChunk(Reply):
    """One event of a chat; `choices` has to be there, so that an error object is no chunk."""

    choices: tuple[ChatPiece, ...]
    usage: Usage | None = None


class TextChunk(Reply):
    """One event of a text."""

    choices: tuple[TextPiece, ...]
    usage: Usage | None = None


CHUNKS: dict[str, type[ChatChunk] | type[TextChunk]] = {"chat": ChatChunk, "completions": TextChunk}


@dataclass(slots=True)
class _Parts:
    """One choice as it grows."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    logprobs: list[Any] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: ChatPiece | TextPiece) -> None:
        if self.finish is not None and (piece.finish_reason or _said(piece)):
            raise PassingError("the stream goes on behind its finish_reason")
        for key, text in _said(piece).items():
            self.texts.setdefault(key, []).append(text)
        if isinstance(piece, ChatPiece):
            self.logprobs += (piece.logprobs.content or ()) if piece.logprobs else ()
        else:
            self.logprobs += (piece.logprobs.token_logprobs or ()) if piece.logprobs else ()
        self.finish = piece.finish_reason or self.finish

    def choice(self, index: int, api: str) -> dict[str, Any]:
        said = {key: "".join(texts) for key, texts in self.texts.items()}
        rest: dict[str, Any] = {"index": index, "finish_reason": self.finish}
        if api == "chat":
            logprobs = {"content": self.logprobs} if self.logprobs else None
            return rest | {"message": said, "logprobs": logprobs}
        return rest | said | {"logprobs": {"token_logprobs": self.logprobs} if self.logprobs else None}


def _said(piece: ChatPiece | TextPiece) -> dict[str, str]:
    if isinstance(piece, TextPiece):
        return {} if piece.text is None else {"text": piece.text}
    keys = ("content", "reasoning_content", "reasoning")
    return {key: text for key in keys if (text := getattr(piece.delta, key)) is not None}


def read_stream(body: bytes, *, api: str, n: int) -> Whole:
    """The whole completions of a stream that has ended. PassingError when there is none."""
    parts: dict[int, _Parts] = {}
    usage: Usage | None = None
    for data in _events(body):
        if data == b"[DONE]":
            break
        try:
            chunk = CHUNKS[api].model_validate_json(data)
        except ValidationError as error:
            raise PassingError(f"no chunk of an answer ({reason(error)}): {data[:80]!r}") from error
        usage = chunk.usage or usage
        for piece in chunk.choices:
            parts.setdefault(piece.index, _Parts()).add(piece)
    if usage is None:
        raise PassingError("the stream ended without usage; a server that has none in streams needs stream = false")
    choices = [found.choice(index, api) for index, found in sorted(parts.items())]
    try:
        answer = BODIES[api].model_validate({"choices": choices, "usage": usage})
    except ValidationError as error:
        raise PassingError(f"no whole answer ({reason(error)})") from error
    return whole(answer, n=n, shown=body)


def _events(body: bytes) -> Iterator[bytes]:
    """The data of each event; a last one without its blank line was cut and is left out."""
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    data: list[bytes] = []
    for line in lines[:-1]:
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data = []
