"""Ragged batches: every real token keeps its place, whatever the padding and the packing."""

import pytest
import torch

from teacher.rows import GRIDS, Rows, find_rows

LENGTHS = {
    "one token": [1],
    "fewer sequences than grids": [3, 9],
    "equal lengths": [5] * 10,
    "no multiple of the grids": [4, 1, 7, 7, 2, 9, 1],
    "many, one far longer": [2] * 20 + [50],
}


def assert_keeps_every_token(rows: Rows, tokens: int, lengths: list[int]) -> None:
    tokens_N = torch.arange(tokens * 2.0).view(tokens, 2) + 1
    grids = rows.to_grids(tokens_N)
    assert torch.equal(rows.from_grids(grids), tokens_N)
    assert len(grids) <= GRIDS
    found = sorted(int((row[:, 0] > 0).sum()) for grid in grids for row in grid)
    assert found == sorted(lengths)
    for grid in grids:  # real tokens first, neighbors side by side, zeros behind
        for row in grid:
            length = int((row[:, 0] > 0).sum())
            assert (row[length:] == 0).all()
            assert (row[1:length] - row[: max(length - 1, 0)] == 2).all()


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_packed_row(lengths) -> None:
    positions = torch.cat([torch.arange(length) for length in lengths])
    rows = find_rows(1, sum(lengths), positions.device, position_ids=positions[None])
    assert torch.equal(rows.positions_N, positions)
    assert_keeps_every_token(rows, sum(lengths), lengths)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_padded_batch(lengths, side) -> None:
    width = max(lengths) + 1
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, width - length if side == "left" else 0 : width if side == "left" else length] = 1
    rows = find_rows(len(lengths), width, mask.device, mask)
    assert torch.equal(rows.positions_N, torch.cat([torch.arange(length) for length in lengths]))
    assert_keeps_every_token(rows, sum(lengths), lengths)
    batch = torch.randn(len(lengths), width, 3)
    assert torch.equal(rows.scatter(rows.gather(batch)), batch * mask[..., None])


def test_a_full_batch_is_copied_nowhere() -> None:
    for rows in (find_rows(3, 4, torch.device("cpu")), find_rows(3, 4, torch.device("cpu"), torch.ones(3, 4))):
        assert rows.tokens_N is None
        assert rows.places_N is None
        assert rows.grids == ((3, 4),)


def test_no_real_token_at_all() -> None:
    rows = find_rows(2, 3, torch.device("cpu"), torch.zeros(2, 3))
    assert rows.from_grids(rows.to_grids(torch.ones(0, 5))).shape == (0, 5)
    assert (rows.scatter(torch.ones(0, 5)) == torch.zeros(2, 3, 5)).all()


def test_two_rows_whose_positions_happen_to_continue_stay_apart() -> None:
    rows = find_rows(2, 2, torch.device("cpu"), position_ids=torch.tensor([[0, 1], [2, 3]]))
    assert rows.grids == ((2, 2),)
