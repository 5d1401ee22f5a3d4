"""Which tokens are real and which may see each other: padding, packing and plain batches as one thing.

The model runs on the real tokens only, one long list; attention alone needs grids of
sequences, and there are up to `GRIDS` of them so that short sequences are not padded to
the longest. A packed row (several sequences whose `position_ids` start anew) becomes as
many grid rows, so its cost is that of the sequences, not of the row squared. Padding on
either side is dropped and costs nothing. Sizes depend on the data: on a GPU building the
rows waits for it once a batch, unless the batch is plain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# B batch rows, T batch width, N real tokens, S sequences, L longest of a grid, P places in all grids

GRIDS = 4
"""Most grids of one batch. Against one, four save 10-20% of a training step on 25 rows of 30-128
tokens at the miniature's size (one CPU core); more than four save nothing that could be measured."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Where each real token stands in the batch and in the grids of sequences."""

    batch: tuple[int, int]
    """(B, T) of what the caller handed in."""
    grids: tuple[tuple[int, int], ...]
    """(S, L) of each grid attention runs on; every sequence starts at column 0."""
    positions_N: Tensor
    tokens_N: Tensor | None
    """Flat places in the batch; None when every place holds a real token."""
    places_N: Tensor | None
    """Flat places in the grids, one behind the other; None when the tokens fill them in order."""

    def gather(self, batch_BT: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...)"""
        flat = batch_BT.flatten(0, 1)
        return flat if self.tokens_N is None else flat.index_select(0, self.tokens_N)

    def scatter(self, tokens_N: Tensor) -> Tensor:
        """(N, ...) -> (B, T, ...), zeros where there is padding."""
        if self.tokens_N is not None:
            empty = tokens_N.new_zeros(self.batch[0] * self.batch[1], *tokens_N.shape[1:])
            tokens_N = empty.index_copy(0, self.tokens_N, tokens_N)
        batch_BT: Tensor = tokens_N.unflatten(0, self.batch)
        return batch_BT

    def sequences(self) -> tuple[Tensor, int]:
        """Which sequence each token belongs to (N), int64, and how many there are (S)."""
        begun, parts = 0, []
        for sequences, longest in self.grids:
            ids_S = torch.arange(begun, begun + sequences, device=self.positions_N.device)
            parts.append(ids_S.repeat_interleave(longest))
            begun += sequences
        flat_P = torch.cat(parts)
        return (flat_P if self.places_N is None else flat_P.index_select(0, self.places_N)), begun

    def followed(self) -> tuple["Rows", Tensor]:
        """Rows of the tokens that have a successor in their sequence, and where those stand in the list (M)."""
        sequence_N, _ = self.sequences()
        kept_M = (sequence_N[1:] == sequence_N[:-1]).nonzero()[:, 0]
        tokens_M = kept_M if self.tokens_N is None else self.tokens_N.index_select(0, kept_M)
        sequence_M = sequence_N.index_select(0, kept_M)
        starts_M = torch.ones_like(kept_M, dtype=torch.bool)
        starts_M[1:] = sequence_M[1:] != sequence_M[:-1]
        positions_M = self.positions_N.index_select(0, kept_M)
        return _arranged(self.batch, positions_M, tokens_M, starts_M), kept_M

    def to_grids(self, tokens_N: Tensor) -> list[Tensor]:
        """(N, ...) -> (S, L, ...) for each grid, zeros behind each sequence's end."""
        sizes = [sequences * longest for sequences, longest in self.grids]
        if self.places_N is not None:
            empty = tokens_N.new_zeros(sum(sizes), *tokens_N.shape[1:])
            tokens_N = empty.index_copy(0, self.places_N, tokens_N)
        parts = tokens_N.split(sizes)
        return [part.unflatten(0, grid) for part, grid in zip(parts, self.grids, strict=True)]

    def from_grids(self, grids: Sequence[Tensor]) -> Tensor:
        """(S, L, ...) of each grid -> (N, ...)"""
        flat_P = torch.cat([grid.flatten(0, 1) for grid in grids]) if len(grids) > 1 else grids[0].flatten(0, 1)
        return flat_P if self.places_N is None else flat_P.index_select(0, self.places_N)


def plain_rows(batch: int, width: int, device: torch.device) -> Rows:
    """Every row one whole sequence."""
    positions_N = torch.arange(width, device=device).repeat(batch)
    return Rows((batch, width), ((batch, width),), positions_N, None, None)


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
    return _arranged((batch, width), positions_N, tokens_N, starts_N)


def _arranged(batch: tuple[int, int], positions_N: Tensor, tokens_N: Tensor, starts_N: Tensor) -> Rows:
    """Rows of tokens in order, of which some start a sequence."""
    sequence_N = starts_N.long().cumsum(0) - 1
    first_S = starts_N.nonzero()[:, 0]
    column_N = torch.arange(len(tokens_N), device=tokens_N.device) - first_S.index_select(0, sequence_N)
    lengths_S = torch.bincount(sequence_N, minlength=len(first_S))
    grids, base_S = _grids(lengths_S)
    in_order = len(grids) == 1 and len(tokens_N) == grids[0][0] * grids[0][1]
    return Rows(
        batch,
        grids,
        positions_N,
        None if len(tokens_N) == batch[0] * batch[1] else tokens_N,
        None if in_order else base_S.index_select(0, sequence_N) + column_N,
    )


def _grids(lengths_S: Tensor) -> tuple[tuple[tuple[int, int], ...], Tensor]:
    """Sequences sorted by length and cut into grids of equally many; and where each sequence begins."""
    if not len(lengths_S):
        return ((0, 0),), lengths_S
    sorted_S, order_S = lengths_S.sort(stable=True)
    parts = sorted_S.chunk(GRIDS)
    longest = torch.stack([part[-1] for part in parts]).tolist()
    if int(sorted_S[0]) == longest[-1]:
        parts, longest = (sorted_S,), longest[-1:]
    grids = tuple((len(part), length) for part, length in zip(parts, longest, strict=True))
    base_S = torch.empty_like(order_S)
    begun, placed = 0, 0
    for sequences, length in grids:
        own = order_S[placed : placed + sequences]
        base_S[own] = begun + length * torch.arange(sequences, device=order_S.device)
        begun, placed = begun + sequences * length, placed + sequences
    return grids, base_S
