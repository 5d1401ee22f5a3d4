"""Tokens: prompts and completions as token ids, and fresh weights, in vLLM's and SGLang's own words.

What training asks of a server that OpenAI's API has no word for: the very ids that were sampled with their
log-probabilities, and to read its weights anew from a folder.

- vLLM: `/completions` with `prompt` as ids, `return_token_ids` (0.10.2 and later) and `logprobs`; weights through
  `/collective_rpc` (`reload_weights`, argument `weights_path`) and `/reset_prefix_cache`, which a server started with
  VLLM_SERVER_DEV_MODE=1 has beside `/v1` (docs/features/sleep_mode.md of vLLM, vllm/entrypoints/serve/dev).
- SGLang: `/generate` with `input_ids` and `return_logprob`; weights through `/update_weights_from_disk`
  (docs/advanced_features/sglang_for_rl.md of SGLang).

Written from these descriptions and run against a stand-in that speaks them over our engine (tests/rollout_server.py);
no vLLM or SGLang server was at hand. What is not covered: weights sent over NCCL or shared memory.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill.errors import UserError
from distill.records import Finish, Params, reason
from distill.sampling.endpoint.client import Call

Kind = Literal["vllm", "sglang"]


@dataclass(frozen=True, slots=True)
class Spoken:
    """One sampled completion as token ids, its end token included."""

    ids: list[int]
    logprobs: list[float]
    """Of the unmodified distribution."""
    finish: Finish


class Reply(BaseModel):
    """A part of an answer; what nobody asked for is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Logprobs(Reply):
    """vLLM's, of a text completion."""

    token_logprobs: tuple[float, ...]


class Choice(Reply):
    """vLLM's completion."""

    finish_reason: Literal["stop", "length"]
    token_ids: tuple[int, ...]
    logprobs: Logprobs


class Completion(Reply):
    """vLLM's whole answer."""

    choices: tuple[Choice, ...] = Field(min_length=1, max_length=1)


class Reason(Reply):
    """SGLang's."""

    type: Literal["stop", "length"]


class Meta(Reply):
    """SGLang's log-probabilities: number, token id and text of each."""

    finish_reason: Reason
    output_token_logprobs: tuple[tuple[float, int, Any], ...]


class Generated(Reply):
    """SGLang's whole answer."""

    meta_info: Meta


class Done(Reply):
    """What SGLang says of fresh weights."""

    success: bool
    message: str = ""


class Dialect(Protocol):
    """How one kind of server is asked."""

    path: str
    """Behind the url of the table, where completions are."""
    suffix: str
    """What the url ends in."""

    def ask(self, model: str, prompt_ids: Sequence[int], params: Params, seed: int | None) -> bytes:
        """The body of a call for one completion."""

    def read(self, body: bytes) -> Spoken:
        """Raises ValueError for a body that is none."""

    def reload(self, folder: str) -> "list[Call[None]]":
        """Calls behind the url without `suffix`, in order, after which the server speaks with the folder's weights."""


class Vllm:
    """vLLM's own extensions."""

    path = "/completions"
    suffix = "/v1"

    def ask(self, model: str, prompt_ids: Sequence[int], params: Params, seed: int | None) -> bytes:
        """As in `Dialect`."""
        body = {"model": model, "prompt": list(prompt_ids), "max_tokens": params.max_tokens, "logprobs": 1}
        body |= {"temperature": params.temperature, "top_p": params.top_p, "return_token_ids": True}
        return json.dumps(body if seed is None else body | {"seed": seed}).encode()

    def read(self, body: bytes) -> Spoken:
        """As in `Dialect`."""
        (choice,) = Completion.model_validate_json(body).choices
        return Spoken(list(choice.token_ids), list(choice.logprobs.token_logprobs), choice.finish_reason)

    def reload(self, folder: str) -> list[Call[None]]:
        """As in `Dialect`."""
        ask = json.dumps({"method": "reload_weights", "kwargs": {"weights_path": folder}}).encode()
        calls = {"/collective_rpc": ask, "/reset_prefix_cache": b"{}"}
        return [Call("fresh weights", path, body, lambda answer: None) for path, body in calls.items()]


class Sglang:
    """SGLang's native API."""

    path = "/generate"
    suffix = ""

    def ask(self, model: str, prompt_ids: Sequence[int], params: Params, seed: int | None) -> bytes:
        """As in `Dialect`; it serves one model and wants no name."""
        how: dict[str, Any] = {"max_new_tokens": params.max_tokens, "temperature": params.temperature}
        how |= {"top_p": params.top_p} if seed is None else {"top_p": params.top_p, "sampling_seed": seed}
        body = {"input_ids": list(prompt_ids), "sampling_params": how, "return_logprob": True}
        return json.dumps(body).encode()

    def read(self, body: bytes) -> Spoken:
        """As in `Dialect`."""
        meta = Generated.model_validate_json(body).meta_info
        said = meta.output_token_logprobs
        return Spoken([token for _, token, _ in said], [logprob for logprob, _, _ in said], meta.finish_reason.type)

    def reload(self, folder: str) -> list[Call[None]]:
        """As in `Dialect`."""
        ask = json.dumps({"model_path": folder, "flush_cache": True}).encode()
        return [Call("fresh weights", "/update_weights_from_disk", ask, _sglang_done)]


DIALECTS: dict[Kind, Dialect] = {"vllm": Vllm(), "sglang": Sglang()}


def spoken(body: bytes, dialect: Dialect, end_ids: frozenset[int]) -> Spoken:
    """A completion that training can use. Raises UserError saying what is missing."""
    try:
        said = dialect.read(body)
    except ValueError as error:  # a ValidationError is one
        why = reason(error) if isinstance(error, ValidationError) else str(error)
        wanted = "token ids and a log-probability of each are needed"
        raise UserError(f"no completion to train on ({why}): {wanted}; got {body[:120]!r}") from error
    if len(said.ids) != len(said.logprobs) or not said.ids:
        raise UserError(
            f"{len(said.ids)} token ids with {len(said.logprobs)} log-probabilities; expected as many, not 0"
        )
    if said.finish == "stop" and said.ids[-1] not in end_ids:
        raise UserError(f"a completion that stopped ends in token {said.ids[-1]}; expected the end token among its ids")
    return said


def _sglang_done(body: bytes) -> None:
    try:
        done = Done.model_validate_json(body)
    except ValidationError as error:
        raise UserError(f"no answer about fresh weights ({reason(error)}): {body[:80]!r}") from error
    if not done.success:
        raise UserError(f"fresh weights refused: {done.message}")
