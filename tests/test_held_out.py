"""Held-out rows: whole prompts, whatever the seed, and a measure that changes nothing."""

import math
from pathlib import Path

import pytest
import torch

from distill.errors import UserError
from distill.jsonl import read_jsonl, write_jsonl
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.train.curve import SftPoint
from distill.train.held_out import held_out_loss, hold_out
from distill.train.rows import IGNORED, Rows, read_rows
from tests import test_sft
from tests.test_sft import EXAMPLES, train, weights

data, model = test_sft.data, test_sft.model


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    write_jsonl(tmp_path / "examples.jsonl", EXAMPLES)
    return read_rows(tmp_path, Chat(mini_tokenizer()), 1000, 64, "refuse")


def prompts(rows: Rows) -> set[tuple[int, ...]]:
    return {
        tuple(id for id, label in zip(*row, strict=True) if label == IGNORED)
        for row in zip(rows.token_ids, rows.labels, strict=True)
    }


def test_a_prompt_is_held_out_with_all_its_rows(rows: Rows) -> None:
    kept, held = hold_out(rows, 7)
    assert len(prompts(rows)) == 20, "sixty rows of twenty prompts"
    assert len(held.token_ids) == 9
    assert len(kept.token_ids) == 51
    assert not prompts(kept) & prompts(held)


def test_rows_behind_the_last_prompt_are_not_enough(rows: Rows) -> None:
    with pytest.raises(UserError, match="held_out: 58 rows of 60 with 20 prompts leave nothing"):
        hold_out(rows, 58)


def test_training_takes_the_same_steps_whether_anything_is_measured(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(data, model, tmp_path / "measured", held_out=9, save_every=2)
    monkeypatch.setattr("distill.train.sft_trainer.held_out_loss", lambda *rows, **how: 0.0)
    train(data, model, tmp_path / "not", held_out=9, save_every=2)
    measured, other = weights(tmp_path / "measured"), weights(tmp_path / "not")
    assert all(torch.equal(measured[name], other[name]) for name in measured)
    curve = read_jsonl(tmp_path / "measured" / "curve.jsonl", SftPoint)
    found = [row.held_out_loss for row in curve]
    assert all(loss is not None and math.isfinite(loss) for loss in found)
    assert found[0] != found[-1]


def test_batches_and_the_fused_head_do_not_change_the_loss(
    rows: Rows, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.trainer.utils import add_fused_lm_head

    from cli.loading import Folders

    loaded = Folders().load(model).model
    add_fused_lm_head(loaded, outputs=("log_probs",))
    losses = []
    for budget in (2**24, 0):
        monkeypatch.setattr("distill.train.held_out.WHOLE_LOGITS", budget)
        losses.append(held_out_loss(loaded, rows, bf16=False))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
