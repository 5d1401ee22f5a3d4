"""Which cache blocks a decoder's call writes and reads, worked out once for all its layers.

The block tables are those of paged attention (Kwon et al. 2023, arXiv 2309.06180). On a CPU
the cheapest way to read them is to copy the blocks of a few rows of like length side by side
and multiply there: the copy streams the cache once and leaves the rows where both products
find them near. Owns no cache and knows no layout: it counts in blocks and in tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# B rows of a call, T new tokens a row (padded), N real new tokens, M blocks a table,
# R rows of a part, K blocks a row of a part, L tokens a row of a part

PART_ROWS = 64
"""Most rows read together."""
PART_BYTES = 2 << 20
"""Cache read together, as long as it is more than one row. Measured on one core with 1 MB of L2 on 512 rows of 80-120
tokens: with 0.5 MB a part the reading took a fifth longer, with 8 MB a tenth."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of like length that a step reads together."""

    rows: slice
    blocks_RK: Tensor
    length: int
    mask_R1L: Tensor
    """0 where a row may look, -inf behind its end."""


@dataclass(frozen=True, slots=True)
class Step:
    """One token a row. Rows are put in order of length first: see `order_B`."""

    order_B: Tensor
    """Where each row of the call now stands: `x_B[order_B]` puts rows in order."""
    positions_B: Tensor
    places_B: Tensor
    """Token places in the cache that the new tokens take."""
    parts: tuple[Part, ...]

    def in_call_order(self, sorted_BX: Tensor) -> Tensor:
        """Undo the sorting."""
        return torch.empty_like(sorted_BX).index_copy_(0, self.order_B, sorted_BX)


def plan_step(
    positions_B: Tensor, tables_BM: Tensor, block_size: int, dtype: torch.dtype, bytes_per_token: int
) -> Step:
    """`bytes_per_token`: what one layer keeps of a token."""
    positions_B, order_B = positions_B.sort()
    tables_BM = tables_BM.index_select(0, order_B)
    places_B = places(tables_BM, positions_B[:, None], block_size)[:, 0]
    columns_L = torch.arange(int(positions_B[-1]) + 1, device=positions_B.device)
    parts = []
    for rows, length in _cuts(positions_B.tolist(), bytes_per_token):
        unseen_RL = columns_L[:length] > positions_B[rows, None]
        mask_RL = torch.zeros(unseen_RL.shape, dtype=dtype, device=unseen_RL.device).masked_fill_(unseen_RL, -torch.inf)
        parts.append(Part(rows, tables_BM[rows, : -(-length // block_size)], length, mask_RL[:, None]))
    return Step(order_B, positions_B, places_B, tuple(parts))


def _cuts(positions: list[int], bytes_per_token: int) -> Iterator[tuple[slice, int]]:
    """Slices of ascending positions, and the length of the longest row of each."""
    first = 0
    for row, position in enumerate(positions):
        rows = row - first
        if rows and (rows == PART_ROWS or (rows + 1) * (position + 1) * bytes_per_token > PART_BYTES):
            yield slice(first, row), positions[row - 1] + 1
            first = row
    yield slice(first, len(positions)), positions[-1] + 1


@dataclass(frozen=True, slots=True)
class Pieces:
    """New tokens of several rows, each behind what its row holds already."""

    real_N: Tensor
    """Flat places of the real tokens in the padded call."""
    positions_N: Tensor
    places_N: Tensor
    """Token places in the cache that they take."""
    last_B: Tensor
    """Which real token is each row's last."""
    blocks_BK: Tensor
    length: int
    mask_B1TL: Tensor | None
    """0 where a new token may look, -inf elsewhere; None when nobody asked for it."""


def plan_pieces(
    starts_B: Tensor,
    lengths_B: Tensor,
    tables_BM: Tensor,
    width: int,
    block_size: int,
    dtype: torch.dtype,
    *,
    masked: bool,
) -> Pieces:
    """`width`: T of the call. Without `masked` every row begins: then each token sees all before it in the call."""
    offsets_T = torch.arange(width, device=starts_B.device)
    real_N = (offsets_T < lengths_B[:, None]).flatten().nonzero()[:, 0]
    positions_BT = starts_B[:, None] + offsets_T
    fitting_BT = positions_BT.clamp(max=tables_BM.shape[1] * block_size - 1)  # padding may stand beyond the table
    places_N = places(tables_BM, fitting_BT, block_size).flatten().index_select(0, real_N)
    ends_B = starts_B + lengths_B
    length = int(ends_B.max())
    mask_B1TL = None
    if masked:
        unseen_BTL = torch.arange(length, device=starts_B.device) > positions_BT[..., None]
        mask_BTL = torch.zeros(unseen_BTL.shape, dtype=dtype, device=unseen_BTL.device)
        mask_B1TL = mask_BTL.masked_fill_(unseen_BTL, -torch.inf)[:, None]
    return Pieces(
        real_N,
        positions_BT.flatten().index_select(0, real_N),
        places_N,
        lengths_B.cumsum(0) - 1,
        tables_BM[:, : -(-length // block_size)],
        length,
        mask_B1TL,
    )


class Workspace:
    """Memory that blocks are copied into, kept from call to call: fresh pages would cost more than the copy."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0)

    def gather(self, blocks_SX: Tensor, which_N: Tensor) -> Tensor:
        """Rows of a cache of blocks side by side, (N, X); what the last call returned is overwritten."""
        needed = len(which_N) * blocks_SX.shape[1]
        fits = self.buffer.dtype == blocks_SX.dtype and self.buffer.device == blocks_SX.device
        if self.buffer.numel() < needed or not fits:
            with torch.inference_mode(False):  # else it could not be written outside inference mode later
                self.buffer = torch.empty(needed, dtype=blocks_SX.dtype, device=blocks_SX.device)
        out_NX = self.buffer[:needed].view(len(which_N), -1)
        return torch.index_select(blocks_SX, 0, which_N, out=out_NX)


def places(tables_BM: Tensor, positions_BX: Tensor, block_size: int) -> Tensor:
    """Token places in the cache of each row's positions, (B, X)."""
    return tables_BM.gather(1, positions_BX // block_size) * block_size + positions_BX % block_size
