"""Served: rollouts from vLLM or SGLang in an environment of its own, over HTTP.

Before each step's rollouts the weights are written to a folder that every server sees, and every server is told to
read them; one that does not is an error, for it would speak with old weights. What the servers compute otherwise than
the trainer (kernels, precision) is measured each step (`kl_sampler_trainer`) and corrected by importance weights.
Prompts and completions travel as token ids. A completion is asked for one a call with its own seed.
"""

import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from distill.records import Params
from distill.sampling.endpoint import EndpointConfig, EndpointSampler
from distill.sampling.endpoint.client import Call
from distill.sampling.endpoint.tokens import DIALECTS, Kind, Spoken, spoken

FOLDER = "served"
IDLE = ("serve", "api", "tokenizer", "per_call", "logprobs", "stream", "think_open")
"""Keys of an endpoint that mean nothing where token ids travel."""


class RolloutsConfig(BaseModel):
    """Rollouts from servers instead of our engine."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    server: Kind
    """What serves: `vllm` (0.10.2 or later, started with VLLM_SERVER_DEV_MODE=1) or `sglang`."""
    endpoint: EndpointConfig
    """Where; a vLLM url ends in `/v1`, an SGLang url has no path. The servers start with the model's own folder."""
    folder: str = ""
    """Folder for the weights handed over, by the path the servers know it by; empty: `served` in the run folder."""

    @model_validator(mode="after")
    def _token_ids_travel(self) -> Self:
        idle = [key for key in IDLE if key in self.endpoint.model_fields_set]
        if idle:
            raise ValueError(f"endpoint.{idle[0]}: means nothing here, where prompts and completions are token ids")
        suffix = DIALECTS[self.server].suffix
        for url in self.endpoint.servers:
            path = url.split("://")[1].partition("/")[2]
            if f"/{path}" != suffix and (path or suffix):
                expected = f"a url that ends in {suffix}" if suffix else "a url without a path"
                raise ValueError(f"endpoint: {url}: expected {expected} for server = {self.server!r}")
        return self


class Served:
    """A `Roller` over servers."""

    def __init__(self, config: RolloutsConfig, model: Any, tokenizer: Any, out: Path, end_ids: Iterable[int]) -> None:
        """`model`: the one in training, whose weights are handed over; `out`: the run folder."""
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.dialect = DIALECTS[config.server]
        self.sampler = EndpointSampler(config.endpoint)
        self.folder = Path(config.folder or out / FOLDER).absolute()
        self.end_ids = frozenset(end_ids)
        self.handed_over = 0

    def refresh(self) -> None:
        """Hand the weights over. Raises UserError naming a server that did not take them."""
        self.handed_over += 1
        fresh = self.folder / f"weights-{self.handed_over}"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        self.model.save_pretrained(fresh)
        self.tokenizer.save_pretrained(fresh)
        for call in self.dialect.reload(str(fresh)):
            self.sampler.tell_all(call, self.dialect.suffix)
        for old in self.folder.glob("weights-*"):  # a server may read lazily from the folder it was given last
            if old != fresh:
                shutil.rmtree(old)

    def rollout(self, prompt_ids: list[list[int]], params: Params, n: int, seeds: list[int]) -> list[list[Spoken]]:
        """`n` samples of every prompt, in the order given. Raises UserError for answers one cannot train on."""
        said = self.sampler.ask_many(self._calls(prompt_ids, params, n, seeds))
        return [[next(said) for _ in range(n)] for _ in prompt_ids]

    def close(self) -> None:
        """Remove the weights handed over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _calls(self, prompt_ids: list[list[int]], params: Params, n: int, seeds: list[int]) -> Iterator[Call[Spoken]]:
        endpoint = self.config.endpoint
        read = partial(spoken, dialect=self.dialect, end_ids=self.end_ids)
        for number, (ids, seed) in enumerate(zip(prompt_ids, seeds, strict=True)):
            for k in range(n):
                own = seed + k if endpoint.send_seed else None
                ask = self.dialect.ask(endpoint.model, ids, params, own)
                yield Call(f"sample {k} of prompt {number}", self.dialect.path, ask, read)
