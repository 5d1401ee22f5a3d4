"""Rows kept out of training, and the loss on them.

A row is chosen by the hash of its prompt's tokens, whatever the seed, and takes all rows with that prompt along: no
sample of a held-out problem is trained on. Measuring draws no random number and touches no weight, so that a run
with held-out rows takes the steps of one without.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from trl.trainer.utils import add_fused_lm_head

from distill.errors import UserError
from distill.train.rows import IGNORED, Rows
from distill.train.schedule import WHOLE_LOGITS


def hold_out(rows: Rows, count: int) -> tuple[Rows, Rows]:
    """Rows to train on and at least `count` held out. UserError where that leaves nothing to train on."""
    groups: dict[bytes, list[int]] = {}
    for place, (ids, labels) in enumerate(zip(rows.token_ids, rows.labels, strict=True)):
        begins = next(index for index, label in enumerate(labels) if label != IGNORED)
        prompt = hashlib.sha256(repr(ids[:begins]).encode()).digest()
        groups.setdefault(prompt, []).append(place)
    held: set[int] = set()
    for prompt in sorted(groups):
        if len(held) >= count:
            break
        held |= set(groups[prompt])
    if len(held) == len(rows.token_ids):
        raise UserError(
            f"held_out: {count} rows of {len(rows.token_ids)} with {len(groups)} prompts leave nothing to train on; "
            "lower it"
        )
    return _part(rows, [row for row in range(len(rows.token_ids)) if row not in held]), _part(rows, sorted(held))


def first_rows(rows: Rows, count: int) -> Rows:
    """The first `count` rows, or all of fewer."""
    return _part(rows, list(range(min(count, len(rows.token_ids)))))


def spread_rows(rows: Rows, count: int) -> Rows:
    """`count` rows, evenly over all of them, or all of fewer."""
    known = len(rows.token_ids)
    return _part(rows, [place * known // count for place in range(count)] if count < known else list(range(known)))


@contextmanager
def fused_head(model: Any) -> Iterator[None]:
    """TRL's fused head on a model that no trainer gave one."""
    add_fused_lm_head(model, outputs=("log_probs",))
    try:
        yield
    finally:
        del model.forward


def held_out_loss(model: Any, rows: Rows, *, bf16: bool) -> float:
    """Mean cross-entropy of the loss tokens of `rows`, in eval mode, padded.

    Where logits are too many to hold at once the model has to have TRL's fused head (`add_fused_lm_head`).
    """
    vocab_size = model.get_output_embeddings().weight.shape[0]
    device, training = model.get_input_embeddings().weight.device, model.training
    model.eval()
    total, tokens = 0.0, 0
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for batch in _batches(rows.lengths, WHOLE_LOGITS // vocab_size):
            ids, mask, labels = (
                column.to(device)
                for column in _padded([rows.token_ids[row] for row in batch], [rows.labels[row] for row in batch])
            )
            total += _loss_sum(model, ids, mask, labels, few=ids.numel() * vocab_size <= WHOLE_LOGITS)
            tokens += int((labels[:, 1:] != IGNORED).sum())
    model.train(training)
    return total / tokens


def _loss_sum(model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, labels_BT: torch.Tensor, *, few: bool) -> float:
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
    if few:
        logits = model(**inputs).logits[:, :-1].float()
        targets = labels_BT[:, 1:].flatten()
        return float(F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum"))
    return float(model(**inputs, labels=labels_BT, fused_lm_head=True, num_items_in_batch=1).loss)


def _padded(ids: Sequence[list[int]], labels: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids, mask and labels (B, T). What a masked place holds does not matter."""
    width = max(map(len, ids))
    pad = [width - len(row) for row in ids]
    return (
        torch.tensor([row + [0] * more for row, more in zip(ids, pad, strict=True)]),
        torch.tensor([[1] * len(row) + [0] * more for row, more in zip(ids, pad, strict=True)]),
        torch.tensor([row + [IGNORED] * more for row, more in zip(labels, pad, strict=True)]),
    )


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Rows of like length, at most `budget` padded tokens together, one at least."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batch and lengths[row] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _part(rows: Rows, chosen: Sequence[int]) -> Rows:
    return dataclasses.replace(
        rows,
        examples=[rows.examples[row] for row in chosen],
        token_ids=[rows.token_ids[row] for row in chosen],
        labels=[rows.labels[row] for row in chosen],
        thoughts=[rows.thoughts[row] for row in chosen],
        places=[rows.places[row] for row in chosen],
    )
