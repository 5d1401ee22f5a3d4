"""Which tokens are real and which may see each other: padding, packing and plain batches as one thing.

The model runs on the real tokens only, one long list; attention alone needs a grid of
sequences. A packed row (several sequences whose `position_ids` start anew) becomes as
many grid rows, so its cost is that of the sequences, not of the row squared. Padding on
either side is dropped and costs nothing outside attention. Sizes depend on the data:
on a GPU building the rows waits for it once a batch, unless the batch is plain.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# B batch rows, T batch width, N real tokens, S sequences, L longest sequence


@dataclass(frozen=True, slots=True)
class Rows:
    """Where each real token stands in the batch and in the grid of sequences."""

    batch: tuple[int, int]
    """(B, T) of what the caller handed in."""
    grid: tuple[int, int]
    """(S, L) attention runs on; every sequence starts at column 0."""
    positions_N: Tensor
    tokens_N: Tensor | None
    """Flat places in the batch; None when every place holds a real token."""
    places_N: Tensor | None
    """Flat places in the grid; None when the tokens fill it in order."""

    def gather(self, batch_BT: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...)"""
        flat = batch_BT.flatten(0, 1)
        return flat if self.tokens_N is None else flat.index_select(0, self.tokens_N)

    def scatter(self, tokens_N: Tensor) -> Tensor:
        """(N, ...) -> (B, T, ...), zeros where there is padding."""
        if self.tokens_N is not None:
            empty = tokens_N.new_zeros(self.batch[0] * self.batch[1], *tokens_N.shape[1:])
            tokens_N = empty.index_copy(0, self.tokens_N, tokens_N)
        return tokens_N.unflatten(0, self.batch)

    def to_grid(self, tokens_N: Tensor) -> Tensor:
        """(N, ...) -> (S, L, ...), zeros behind each sequence's end."""
        if self.places_N is not None:
            empty = tokens_N.new_zeros(self.grid[0] * self.grid[1], *tokens_N.shape[1:])
            tokens_N = empty.index_copy(0, self.places_N, tokens_N)
        return tokens_N.unflatten(0, self.grid)

    def from_grid(self, grid_SL: Tensor) -> Tensor:
        """(S, L, ...) -> (N, ...)"""
        flat = grid_SL.flatten(0, 1)
        return flat if self.places_N is None else flat.index_select(0, self.places_N)


def plain_rows(batch: int, width: int, device: torch.device) -> Rows:
    """Every row one whole sequence."""
    positions_N = torch.arange(width, device=device).repeat(batch)
    return Rows((batch, width), (batch, width), positions_N, None, None)


def find_rows(
    batch: int,
    width: int,
    device: torch.device,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Rows:
    """Rows of a batch from its (B, T) mask of real tokens and its (1 or B, T) positions.

    A sequence ends where positions do not continue by one; without `position_ids` a row is
    one sequence and positions count its real tokens.
    """
    if attention_mask is None and position_ids is None:
        return plain_rows(batch, width, device)
    real_BT = torch.ones(batch, width, dtype=torch.bool, device=device)
    if attention_mask is not None:
        real_BT = attention_mask.to(device, torch.bool)
    if position_ids is None:
        positions_BT = real_BT.long().cumsum(1) - 1
    else:
        positions_BT = position_ids.to(device).expand(batch, width)
    tokens_N = real_BT.flatten().nonzero()[:, 0]
    positions_N = positions_BT.flatten().index_select(0, tokens_N)
    row_N = tokens_N // width
    starts_N = torch.ones_like(tokens_N, dtype=torch.bool)
    starts_N[1:] = (row_N[1:] != row_N[:-1]) | (positions_N[1:] != positions_N[:-1] + 1)
    sequence_N = starts_N.long().cumsum(0) - 1
    first_S = starts_N.nonzero()[:, 0]
    column_N = torch.arange(len(tokens_N), device=device) - first_S.index_select(0, sequence_N)
    grid = (len(first_S), int(column_N.max()) + 1 if len(tokens_N) else 0)
    full_batch = len(tokens_N) == batch * width
    full_grid = len(tokens_N) == grid[0] * grid[1]
    return Rows(
        (batch, width),
        grid,
        positions_N,
        None if full_batch else tokens_N,
        None if full_grid else sequence_N * grid[1] + column_N,
    )
