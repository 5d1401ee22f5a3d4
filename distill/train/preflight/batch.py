"""What the collator makes of real rows: every token seen, every label kept, nothing else learned.

Collators that mask labels by the id of the pad token also mask the end-of-turn token where the two are one, and the
model never stops (TRL issues 1623, 2059 and 3091). TRL's own collator, which trains here, masks by place; this looks
at what comes out of it, whatever it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

from distill.errors import UserError
from distill.train.preflight.findings import Finding
from distill.train.rows import IGNORED, Rows

Collate = Callable[[list[dict[str, list[int]]]], dict[str, Any]]
"""Rows in, tensors of one pass out: `input_ids`, `labels` (B, T), and `attention_mask` or `position_ids`."""

LOOKED_AT = 8
"""Rows of the batch that is looked at."""


def collator(tokenizer: Any, *, packing: bool) -> Collate:
    """TRL's collator, as a run uses it. Raises UserError where it would have nothing to pad with."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    if tokenizer.pad_token_id is None and not packing:
        raise UserError(
            "pad_token: the tokenizer has none, so rows of different length cannot share a batch; set pad_token in "
            "tokenizer_config.json (not to the end-of-turn token), or set packing = true"
        )
    made: Collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id or 0, padding_free=packing)
    return made


def check_batch(rows: Rows, collate: Collate, tokenizer: Any) -> Finding:
    """Collate a few rows of the training set. Raises UserError naming the row that loses a token or its label."""
    import torch

    chosen = spread(rows, LOOKED_AT)
    batch = collate([{"input_ids": rows.token_ids[row], "labels": rows.labels[row]} for row in chosen])
    ids_BT, labels_BT = batch["input_ids"], batch["labels"]
    real_BT = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(ids_BT, dtype=torch.bool)
    lengths = [len(rows.token_ids[row]) for row in chosen]
    packed = len(ids_BT) == 1 and len(chosen) > 1
    parts = [real_BT[0].split(lengths), ids_BT[0].split(lengths), labels_BT[0].split(lengths)] if packed else None
    for place, row in enumerate(chosen):
        where, length = rows.places[row], lengths[place]
        real, ids, labels = (part[place] for part in parts or (real_BT, ids_BT, labels_BT))
        if int(real.sum()) != length or ids[real].tolist() != rows.token_ids[row]:
            raise UserError(
                f"{where}: {int(real.sum())} of its {length} tokens are seen in a batch; the collator hides or changes "
                f"tokens{_same(tokenizer)}"
            )
        # The first token of a row is nobody's target: some collators drop its label.
        wanted, kept = rows.labels[row][1:], labels[real].tolist()[1:]
        lost = [token for token, label in zip(wanted, kept, strict=True) if token != label]
        if lost:
            named = f"{lost[0]} ({tokenizer.decode([lost[0]])!r})"
            raise UserError(
                f"{where}: token {named} carries loss, and the collator masks it in {len(lost)} places"
                f"{_same(tokenizer)}"
            )
        if (labels[~real] != IGNORED).any():
            raise UserError(f"{where}: padding carries loss; the collator must label it {IGNORED}")
    same = "; pad is the end-of-turn token, masked by place" if _same(tokenizer) else ""
    return Finding("batch", f"{len(chosen)} rows collated, every label kept{same}")


def spread(rows: Rows, count: int) -> list[int]:
    """So many rows at even distances over the whole order, each once."""
    there = len(rows.token_ids)
    count = min(count, there)
    return [place * (there - 1) // max(1, count - 1) for place in range(count)]


def _same(tokenizer: Any) -> str:
    """The remedy where pad and end-of-turn are one token."""
    if tokenizer.pad_token_id != tokenizer.eos_token_id:
        return ""
    return (
        f"; pad_token is the end-of-turn token {tokenizer.eos_token!r}, and what masks one masks the other: set "
        "pad_token in tokenizer_config.json to a token no text has"
    )


def longest(rows: Rows, parts: Sequence[Sequence[int]], *, packing: bool) -> int:
    """Tokens of the largest pass of a plan, padding counted."""
    lengths = rows.lengths
    return max(
        sum(lengths[row] for row in part) if packing else len(part) * max(lengths[row] for row in part)
        for part in parts
    )
