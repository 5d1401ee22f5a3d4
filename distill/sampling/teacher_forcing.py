"""Teacher forcing: log-probabilities of given sequences under a model, many at a time.

Sequences of like length run side by side, so that little of a call is padding; the head is
applied to a bounded number of tokens at once, because logits of one long sequence over a
large vocabulary are larger than the model. Results do not depend on what is scored beside:
padding stands behind every real token and is masked (tests compare with one by one).
Keeps no cache and does not cut: a sequence must fit in the model's context.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from distill.errors import UserError
from distill.sampling.protocols import TokenScores

# B rows of a call, T padded width, N tokens with a successor, K likeliest kept, D model width, V vocabulary

CALL_TOKENS = 8192
"""Padded tokens of one call: bounds the memory of hidden states."""
HEAD_VALUES = 1 << 24
"""Logits in memory at once (64 MB in float32)."""
WINDOW = 512
"""Sequences read ahead, to find those of like length."""
WINDOW_TOKENS = 1 << 18
"""Tokens read ahead: bounds the scores that wait for their turn."""


def score_many(model: Any, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
    """Scores of each sequence, in the order given; reads a bounded window ahead.

    `model` is a transformers causal model whose logits are its head over its base model's last hidden state.
    Raises UserError for a sequence of fewer than 2 tokens, or a token outside the vocabulary.
    """
    for window in _windows(sequences):
        for ids in window:
            _check(ids, model.config.vocab_size)
        scores: dict[int, TokenScores] = {}
        for places in _calls([len(ids) for ids in window]):
            found = _score(model, [window[place] for place in places], top_k)
            scores.update(zip(places, found, strict=True))
        yield from (scores.pop(place) for place in range(len(window)))


def _windows(sequences: Iterable[list[int]]) -> Iterator[list[list[int]]]:
    window: list[list[int]] = []
    tokens = 0
    for ids in sequences:
        window.append(ids)
        tokens += len(ids)
        if len(window) >= WINDOW or tokens >= WINDOW_TOKENS:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def _check(ids: Sequence[int], vocabulary: int) -> None:
    if len(ids) < 2:
        raise UserError(f"score: needs at least 2 tokens, got {len(ids)}")
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise UserError(f"score: token id {max(ids)} is outside the model's vocabulary of {vocabulary}")


def _calls(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places that run together: cut where padding would exceed a quarter, or the call its budget."""
    call: list[int] = []
    tokens = 0
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        padded = lengths[place] * (len(call) + 1)
        if call and (padded > CALL_TOKENS or padded > 1.25 * (tokens + lengths[place]) + 64):
            yield call
            call, tokens = [], 0
        call.append(place)
        tokens += lengths[place]
    if call:
        yield call


@torch.inference_mode()
def _score(model: Any, rows: Sequence[list[int]], top_k: int) -> list[TokenScores]:
    """One call. The last token of a row has no successor, so it is not run."""
    device = model.get_input_embeddings().weight.device
    counts = [len(ids) - 1 for ids in rows]
    width = max(counts)
    ids_BT = torch.tensor([[*ids[:-1], *[0] * (width - len(ids) + 1)] for ids in rows], device=device)
    real_BT = torch.arange(width, device=device) < torch.tensor(counts, device=device)[:, None]
    mask = None if min(counts) == width else real_BT.long()
    next_N = torch.tensor([token for ids in rows for token in ids[1:]], device=device)
    top_k = min(top_k, model.config.vocab_size)
    given, top_ids, top_logprobs = [], [], []
    for logits_NV, part_N in _logits(model, ids_BT, mask, real_BT, next_N):
        whole_N1 = logits_NV.logsumexp(-1, keepdim=True)
        top = logits_NV.topk(top_k, dim=-1)
        given.append((logits_NV.gather(-1, part_N[:, None]) - whole_N1).squeeze(-1).cpu())
        top_ids.append(top.indices.cpu())
        top_logprobs.append((top.values - whole_N1).cpu())
    split = (torch.cat(parts).split(counts) for parts in (given, top_ids, top_logprobs))
    return [TokenScores(*parts) for parts in zip(*split, strict=True)]


def _logits(
    model: Any, ids_BT: Tensor, mask_BT: Tensor | None, real_BT: Tensor, next_N: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Float32 logits (N, V) of the real tokens, a part at a time, with the tokens that follow them.

    A model with hooks on its call is called whole: one split over processes tells the others by such a hook. All
    logits of a call are then in memory together.
    """
    at_once = max(1, HEAD_VALUES // model.config.vocab_size)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
    if model._forward_pre_hooks:
        parts = model(**inputs).logits[real_BT].split(at_once)
    else:
        hidden_ND = model.base_model(**inputs).last_hidden_state[real_BT]
        parts = map(model.get_output_embeddings(), hidden_ND.split(at_once))
    for logits_NV, part_N in zip(parts, next_N.split(at_once), strict=True):
        yield logits_NV.float(), part_N
