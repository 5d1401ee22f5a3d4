"""What the engine knows about each running row, as tensors, so that a step has no Python per row.

Running rows are always 0 .. live-1: a row that ends is replaced by the last one, which moves
its state and its block table but nothing in the cache. Owns no cache.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.errors import UserError
from distill.records import Params
from distill.sampling.engine.choice import choose, logprobs_of, penalize, row_key, uniforms


class Rows:
    """Preallocated state of `slots` rows of at most `capacity` tokens in at most `blocks` blocks."""

    def __init__(
        self, slots: int, capacity: int, blocks: int, vocab_size: int, end_ids: set[int], device: torch.device
    ) -> None:
        def numbers(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(slots, *shape, dtype=dtype, device=device)

        self.device = device
        self.token = numbers(torch.int64)
        self.position = numbers(torch.int64)
        """Where the next token goes, which is also how many tokens the cache holds."""
        self.count = numbers(torch.int64)
        """Tokens said so far."""
        self.limit = numbers(torch.int64)
        self.key = numbers(torch.int64)
        self.temperature = numbers(torch.float32)
        self.top_k = numbers(torch.int64)
        self.top_p = numbers(torch.float32)
        self.min_p = numbers(torch.float32)
        self.penalty = numbers(torch.float32)
        self.stop_set = numbers(torch.int64)
        """Which set of stop strings applies; 0 is none."""
        self.stopped = numbers(torch.bool)
        self.done = numbers(torch.bool)
        self.ids = numbers(torch.int64, capacity)
        self.logprobs = numbers(torch.float32, capacity)
        self.table = numbers(torch.int64, blocks)
        self.seen: Tensor | None = None
        """(slots, V): tokens of prompt and completion. Made for the first row that penalizes repetition."""
        self.every = torch.arange(slots, device=device)
        self.is_end = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self.is_end[sorted(end for end in end_ids if end < vocab_size)] = True

    def begin(
        self,
        first: int,
        prompts: Sequence[Sequence[int]],
        tables: Sequence[Sequence[int]],
        params: Sequence[Params],
        seeds: Sequence[int],
        sets: Sequence[int],
    ) -> None:
        """Set rows from `first` on to the end of their prompts, before their first token."""
        rows = slice(first, first + len(prompts))
        columns: tuple[tuple[Tensor, Sequence[float]], ...] = (
            (self.position, [len(prompt) for prompt in prompts]),
            (self.limit, [asked.max_tokens for asked in params]),
            (self.key, [row_key(seed) for seed in seeds]),
            (self.temperature, [asked.temperature for asked in params]),
            (self.top_k, [min(asked.top_k, len(self.is_end)) for asked in params]),
            (self.top_p, [asked.top_p for asked in params]),
            (self.min_p, [asked.min_p for asked in params]),
            (self.penalty, [asked.repetition_penalty or 1.0 for asked in params]),
            (self.stop_set, sets),
        )
        for column, values in columns:
            column[rows] = torch.tensor(values, dtype=column.dtype, device=self.device)
        self.count[rows] = 0
        width = max(len(table) for table in tables)
        padded = [[*table, *[0] * (width - len(table))] for table in tables]
        self.table[rows, :width] = torch.tensor(padded, device=self.device)
        self._begin_seen(rows, prompts, params)

    def _begin_seen(self, rows: slice, prompts: Sequence[Sequence[int]], params: Sequence[Params]) -> None:
        if self.seen is None and any(asked.repetition_penalty for asked in params):
            self.seen = torch.zeros(len(self.every), len(self.is_end), dtype=torch.bool, device=self.device)
        if self.seen is not None:
            self.seen[rows] = False
            for row, (prompt, asked) in enumerate(zip(prompts, params, strict=True), rows.start):
                if asked.repetition_penalty:
                    self.seen[row, torch.tensor(prompt, device=self.device)] = True

    def resume(self, row: int, said: Sequence[int], logprobs: Sequence[float]) -> None:
        """Go on behind what a row has said already; its newest token is not in the cache yet."""
        count = len(said)
        ids = torch.tensor(said, device=self.device)
        self.ids[row, :count], self.logprobs[row, :count] = ids, torch.tensor(logprobs, device=self.device)
        self.token[row], self.count[row] = ids[-1], count
        self.position[row] += count - 1
        self.stopped[row] = self.done[row] = False
        if self.seen is not None:
            self.seen[row, ids] = True

    def take(self, rows: slice, logits_BV: Tensor) -> None:
        """Choose one token for each of `rows` and write down what follows from it.

        Raises UserError for logits that are not numbers: of a model that diverged, or overflowed its dtype.
        """
        total_B = logits_BV.logsumexp(-1)
        if not total_B.isfinite().all():
            raise UserError(
                "the model's logits are not finite: its weights diverged, or its dtype is too narrow for it"
            )
        count_B = self.count[rows]
        asked_BV = logits_BV if self.seen is None else penalize(logits_BV, self.seen[rows], self.penalty[rows])
        ids_B = self._choose(rows, asked_BV, count_B)
        at = (self.every[rows], count_B)
        self.ids[at] = ids_B
        self.logprobs[at] = logprobs_of(logits_BV, ids_B, total_B)
        self.token[rows] = ids_B
        if self.seen is not None:
            self.seen[self.every[rows], ids_B] = True
        count_B += 1  # a view: counts the rows themselves
        self.stopped[rows] = self.is_end[ids_B]
        self.done[rows] = self.stopped[rows] | (count_B >= self.limit[rows])

    def _choose(self, rows: slice, logits_BV: Tensor, place_B: Tensor) -> Tensor:
        temperature_B = self.temperature[rows]
        if not temperature_B.any():
            return logits_BV.argmax(-1)
        uniform_B = uniforms(self.key[rows], place_B)
        return choose(logits_BV, uniform_B, temperature_B, self.top_k[rows], self.top_p[rows], self.min_p[rows])

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy rows over others."""
        counters = (self.token, self.position, self.count, self.limit, self.key, self.stop_set)
        settings = (self.temperature, self.top_k, self.top_p, self.min_p, self.penalty)
        results = (self.stopped, self.done, self.ids, self.logprobs, self.table)
        seen = () if self.seen is None else (self.seen,)
        from_, to = torch.tensor(sources, device=self.device), torch.tensor(targets, device=self.device)
        for column in counters + settings + results + seen:
            column[to] = column[from_]

    def said(self, row: int) -> tuple[list[int], list[float]]:
        """Tokens and their log-probabilities so far."""
        count = int(self.count[row])
        return self.ids[row, :count].tolist(), self.logprobs[row, :count].tolist()
