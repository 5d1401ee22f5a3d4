"""Generate: any causal model transformers knows as a sampler, through transformers' own `generate`.

For architectures the engine does not know, and to compare the engine with. Samples are generated side by side in
batches of equal parameters, padded on the left, prompts of like length together; all of a batch wait for
its longest. Tokens are chosen by the engine's rule (`engine.choice`) from numbers that hang on the sample's
seed and place alone: a sample is the same whatever stands beside it, and the same the engine would draw, as
far as the model's arithmetic is. What the folder's generation_config.json says beside its end tokens is left out.

What is not covered: several processes, scoring, and top log-probabilities.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill.errors import UserError
from distill.prompts import Chat
from distill.records import Completion, Params, SamplerId, fingerprint
from distill.sampling.engine.choice import choose, logprobs_of, penalize, row_key, uniforms
from distill.sampling.engine.stops import StopStrings, cut
from distill.sampling.protocols import Answered, LoadedModel, Request, TokenScores

# B rows of a batch, T tokens, V vocabulary

AHEAD = 8
"""Batches' worth of samples read at once, so that prompts of like length come together."""
CANCELLED = Completion(text="", finish="cancelled", prompt_tokens=0, completion_tokens=0)


@dataclass(frozen=True, slots=True)
class _Row:
    """One sample to be drawn."""

    request: Request
    index: int
    prompt: list[int]


class GenerateSampler:
    """A model that speaks through `generate`. Implements `Sampler`."""

    def __init__(self, loaded: LoadedModel, *, name: str, batch: int) -> None:
        """`name` goes into trace ids; `batch` rows are generated at once. Replaces the model's generation config."""
        from transformers import GenerationConfig

        self.model, self.chat, self.batch = loaded.model, Chat(loaded.tokenizer), batch
        self.identity = SamplerId(name=name, revision=loaded.fingerprint)
        self.think_open = self.chat.think_open
        self.end_ids = _end_ids(self.model, self.chat)
        self.model.generation_config = GenerationConfig(pad_token_id=self.end_ids[0], eos_token_id=list(self.end_ids))
        self.context: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        """Longest sequence in tokens; None where the config does not say."""

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        """Answers as they are whole; some batches of samples are read at once, never more.

        A request whose prompt and longest completion are beyond the model's context is refused.
        """
        source = iter(requests)
        while True:
            rows: list[_Row] = []
            found: dict[Request, list[Completion | None]] = {}
            while len(rows) < AHEAD * self.batch:
                request = next(source, None)
                if request is None:
                    break
                prompt = self.chat.prompt_ids(request.messages)
                why = self._too_long(len(prompt), request.params)
                if why:
                    yield Answered(request, (CANCELLED,) * request.n, why)
                    continue
                found[request] = [None] * request.n
                rows += [_Row(request, index, prompt) for index in range(request.n)]
            if not rows:
                return
            for batch in self._batches(rows):
                for row, completion in zip(batch, self._generate(batch), strict=True):
                    found[row.request][row.index] = completion
                    said = tuple(one for one in found[row.request] if one is not None)
                    if len(said) == row.request.n:
                        yield Answered(row.request, said)

    def score(self, token_ids: list[int], top_k: int) -> TokenScores:
        raise UserError("sampler 'transformers' does not score; use the engine over a teacher or student")

    def score_many(self, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
        """Not possible, as `score`."""
        return (self.score(token_ids, top_k) for token_ids in sequences)

    def _too_long(self, prompt: int, params: Params) -> str:
        if self.context is None or prompt + params.max_tokens <= self.context:
            return ""
        asked = f"{prompt:,} tokens of prompt and max_tokens {params.max_tokens:,}"
        return f"{asked}, beyond a context of {self.context:,}"

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows of equal parameters, those of like length together, the longest first."""
        kinds: dict[str, list[_Row]] = {}
        for row in rows:
            kinds.setdefault(fingerprint(row.request.params), []).append(row)
        for alike in kinds.values():
            alike.sort(key=lambda row: -len(row.prompt))
            yield from (alike[first : first + self.batch] for first in range(0, len(alike), self.batch))

    def _generate(self, rows: Sequence[_Row]) -> Iterator[Completion]:
        """Their completions, in order."""
        params, width = rows[0].request.params, max(len(row.prompt) for row in rows)
        if params.top_logprobs is not None:
            raise UserError("sampler 'transformers': top_logprobs: it keeps none; use the engine")
        device, pad = self.model.device, self.end_ids[0]
        missing = [width - len(row.prompt) for row in rows]
        ids_BT = torch.tensor([[pad] * gap + row.prompt for gap, row in zip(missing, rows, strict=True)])
        mask_BT = torch.tensor([[0] * gap + [1] * (width - gap) for gap in missing])
        ids_BT, mask_BT = ids_BT.to(device), mask_BT.to(device)
        chooser = _Chooser(rows, ids_BT, mask_BT)
        stops = [_Stops(self.chat, params.stop, width, len(rows))] if params.stop else []
        with torch.inference_mode():
            said_BT = self.model.generate(
                ids_BT,
                attention_mask=mask_BT,
                max_new_tokens=params.max_tokens,
                do_sample=False,  # the chooser leaves one token of each row
                use_cache=True,
                logits_processor=[chooser],
                stopping_criteria=stops,
            )
        new_BT = said_BT[:, width:].tolist()
        logprobs_BT = torch.stack(chooser.logprobs, 1).tolist()
        for place, (row, ids, logprobs) in enumerate(zip(rows, new_BT, logprobs_BT, strict=True)):
            ends = [at + 1 for at, token in enumerate(ids) if token in self.end_ids][:1]
            ends += [stops[0].lengths[place]] if stops and stops[0].lengths[place] else []
            count = min(ends, default=len(ids))
            yield self._completion(row, ids[:count], logprobs[:count], ended=bool(ends))

    def _completion(self, row: _Row, ids: list[int], logprobs: list[float], *, ended: bool) -> Completion:
        said = ids[:-1] if ids and ids[-1] in self.end_ids else ids
        last = row.request.messages[-1]
        text = self.chat.decode_after(last.content, said) if last.role == "assistant" else self.chat.decode(said)
        return Completion(
            text=cut(text, row.request.params.stop),
            finish="stop" if ended else "length",
            prompt_tokens=len(row.prompt),
            completion_tokens=len(ids),
            token_ids=tuple(ids),
            logprobs=tuple(logprobs),
        )


class _Chooser:
    """A logits processor that rules out all tokens but the one the engine would choose."""

    def __init__(self, rows: Sequence[_Row], ids_BT: Tensor, mask_BT: Tensor) -> None:
        self.params, self.width, self.mask_BT = rows[0].request.params, ids_BT.shape[1], mask_BT
        self.keys_B = torch.tensor([row_key(row.request.seed + row.index) for row in rows], device=ids_BT.device)
        self.logprobs: list[Tensor] = []
        """Of each place (B,)."""
        self._seen_BV: Tensor | None = None

    def __call__(self, ids_BT: Tensor, logits_BV: Tensor) -> Tensor:
        """Scores (B, V) of which one a row is finite."""
        rows, asked_BV = len(ids_BT), self._penalized(ids_BT, logits_BV)
        place_B = torch.full_like(self.keys_B, ids_BT.shape[1] - self.width)

        def every(value: float) -> Tensor:
            return torch.full((rows,), value, device=logits_BV.device)

        params, size = self.params, logits_BV.shape[1]
        top_k_B = torch.full_like(self.keys_B, min(params.top_k, size))
        chosen_B = choose(
            asked_BV,
            uniforms(self.keys_B, place_B),
            every(params.temperature),
            top_k_B,
            every(params.top_p),
            every(params.min_p),
        )
        self.logprobs.append(logprobs_of(logits_BV, chosen_B, logits_BV.logsumexp(-1)))
        return torch.full_like(logits_BV, -torch.inf).scatter_(1, chosen_B[:, None], 0.0)

    def _penalized(self, ids_BT: Tensor, logits_BV: Tensor) -> Tensor:
        penalty = self.params.repetition_penalty
        if penalty is None:
            return logits_BV
        if self._seen_BV is None:
            counts_BV = torch.zeros_like(logits_BV, dtype=torch.int32)
            self._seen_BV = counts_BV.scatter_add_(1, ids_BT, self.mask_BT.to(torch.int32)) > 0
        else:
            self._seen_BV.scatter_(1, ids_BT[:, -1:], True)
        return penalize(logits_BV, self._seen_BV, torch.full((len(ids_BT),), penalty, device=logits_BV.device))


class _Stops:
    """A stopping criterion: rows whose text contains a stop string."""

    def __init__(self, chat: Chat, stops: tuple[str, ...], width: int, rows: int) -> None:
        self.chat, self.stops, self.width = chat, stops, width
        self.lengths = [0] * rows
        """Tokens up to the end of the stop string; 0 where none came."""
        self._strings: StopStrings | None = None

    def __call__(self, ids_BT: Tensor, scores: object, **_: object) -> Tensor:
        """Rows that are done (B,)."""
        if self._strings is None:
            self._strings = StopStrings(self.chat, len(self.chat.tokenizer), ids_BT.device)
        sets_B = torch.full((len(ids_BT),), self._strings.index(self.stops), device=ids_BT.device)
        for place in self._strings.candidates(sets_B, ids_BT[:, -1]):
            said = ids_BT[place, self.width :].tolist()
            if not self.lengths[place] and self._strings.found(said, self.stops):
                self.lengths[place] = len(said)
        return torch.tensor([length > 0 for length in self.lengths], device=ids_BT.device)


def _end_ids(model: Any, chat: Chat) -> tuple[int, ...]:
    """The chat's end token, and those the checkpoint names in its generation config."""
    named = getattr(model.generation_config, "eos_token_id", None)
    more = [] if named is None else [named] if isinstance(named, int) else list(named)
    return tuple(dict.fromkeys([chat.end_id, *more]))
