"""What the engine knows about each running row, as tensors, so that a step has no Python per row.

Running rows are always 0 .. live-1, and row = cache slot: a row that ends is replaced by
the last one, so that a decoder can read its cache as one slice. Owns no cache.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.records import Params
from distill.sampling.engine.choice import choose, logprobs_of, row_key, uniforms


class Rows:
    """Preallocated state of `slots` rows of at most `capacity` tokens."""

    def __init__(self, slots: int, capacity: int, vocab_size: int, end_ids: set[int], device: torch.device) -> None:
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
        self.stop_set = numbers(torch.int64)
        """Which set of stop strings applies; 0 is none."""
        self.stopped = numbers(torch.bool)
        self.done = numbers(torch.bool)
        self.ids = numbers(torch.int64, capacity)
        self.logprobs = numbers(torch.float32, capacity)
        self.every = torch.arange(slots, device=device)
        self.is_end = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self.is_end[sorted(end for end in end_ids if end < vocab_size)] = True

    def begin(self, first: int, prompts: list[int], params: list[Params], seeds: list[int], sets: list[int]) -> None:
        """Set rows from `first` on to the end of their prompts (given as lengths)."""
        rows = slice(first, first + len(prompts))
        columns: tuple[tuple[Tensor, Sequence[float]], ...] = (
            (self.position, prompts),
            (self.limit, [asked.max_tokens for asked in params]),
            (self.key, [row_key(seed) for seed in seeds]),
            (self.temperature, [asked.temperature for asked in params]),
            (self.top_k, [asked.top_k for asked in params]),
            (self.top_p, [asked.top_p for asked in params]),
            (self.min_p, [asked.min_p for asked in params]),
            (self.stop_set, sets),
        )
        for column, values in columns:
            column[rows] = torch.tensor(values, dtype=column.dtype, device=self.device)
        self.count[rows] = 0

    def take(self, rows: slice, logits_BV: Tensor) -> None:
        """Choose one token for each of `rows` and write down what follows from it."""
        count_B = self.count[rows]
        uniform_B = uniforms(self.key[rows], count_B)
        filters = (self.temperature[rows], self.top_k[rows], self.top_p[rows], self.min_p[rows])
        ids_B = choose(logits_BV, uniform_B, *filters)
        at = (self.every[rows], count_B)
        self.ids[at] = ids_B
        self.logprobs[at] = logprobs_of(logits_BV, ids_B)
        self.token[rows] = ids_B
        count_B += 1  # a view: counts the rows themselves
        self.stopped[rows] = self.is_end[ids_B]
        self.done[rows] = self.stopped[rows] | (count_B >= self.limit[rows])

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy rows over others."""
        counters = (self.token, self.position, self.count, self.limit, self.key, self.stop_set)
        filters = (self.temperature, self.top_k, self.top_p, self.min_p)
        results = (self.stopped, self.done, self.ids, self.logprobs)
        from_, to = torch.tensor(sources, device=self.device), torch.tensor(targets, device=self.device)
        for column in counters + filters + results:
            column[to] = column[from_]
