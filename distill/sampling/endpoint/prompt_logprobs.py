"""Prompt log-probabilities: how a server is asked to score given tokens, and what it answers.

vLLM's extension of OpenAI's text completions: `prompt` as token ids and `prompt_logprobs` = k give,
for every token but the first, its log-probability and those of the k likeliest. vLLM caps k at
its `--max-logprobs`, 20 unless told otherwise. SGLang and llama.cpp have no such field and are
refused by their answer. Written from vLLM's API description; no vLLM server was at hand.
"""

import json
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from distill.sampling.protocols import TokenScores


class Place(BaseModel):
    """One token at one place of the prompt."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    logprob: float


class Choice(BaseModel):
    """What the server says of the prompt; its one generated token is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    prompt_logprobs: tuple[dict[int, Place] | None, ...]


class Body(BaseModel):
    """A whole answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    choices: tuple[Choice, ...] = Field(min_length=1)


def ask(model: str, token_ids: Sequence[int], top_k: int) -> bytes:
    """The body of a request to `/completions`; one token has to be generated."""
    what = {"model": model, "prompt": list(token_ids), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": top_k}
    return json.dumps(what).encode()


def read(body: bytes, token_ids: Sequence[int], top_k: int) -> TokenScores:
    """Scores out of an answer. ValueError when it is none, or not about these tokens."""
    import torch

    said = Body.model_validate_json(body).choices[0].prompt_logprobs
    if len(said) != len(token_ids):
        raise ValueError(f"log-probabilities of {len(said)} tokens, expected {len(token_ids)}")
    given, ids, tops = [], [], []
    for place, (token, found) in enumerate(zip(token_ids[1:], said[1:], strict=True), 1):
        if found is None or token not in found or len(found) < top_k:
            raise ValueError(f"token {place}: expected its log-probability and those of the {top_k} likeliest")
        likeliest = sorted(found, key=lambda other: (-found[other].logprob, other))[:top_k]
        given.append(found[token].logprob)
        ids.append(likeliest)
        tops.append([found[other].logprob for other in likeliest])
    return TokenScores(torch.tensor(given), torch.tensor(ids), torch.tensor(tops))
