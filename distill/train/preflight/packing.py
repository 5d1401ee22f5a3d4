"""Packed rows against the same rows alone, before the first step of the run that packs them.

Rows put end to end are kept apart by `position_ids` that start anew; a model that does not look at them, or a call that
makes them void (`use_cache=True`, an all-ones attention mask), lets every row read its neighbors, and the loss says
nothing of it (TRL issues 1230 and 3067). So a few rows of the training set go through the model in the run's own
dtype and attention twice: packed by the run's collator, and one by one with nothing but their tokens.

The error of a row is |packed - alone| / |alone| over all its hidden states, behind the last norm. Kept apart it is at
most 3.1e-7 in float32 and 0.0038 in bfloat16 for small Llama, Qwen2, Qwen3 and the teacher, 8e-7 and 0.0086 for
SmolLM2-135M on GSM8K; with one leaking layer of SmolLM2's 30, 0.058 at least (`python -m tests.packing_audit`,
docs/preflight.md). Gradients are not compared.
"""

import warnings
from dataclasses import dataclass
from typing import Any

from distill.errors import UserError
from distill.train.lean import CALL
from distill.train.preflight.batch import Collate, spread
from distill.train.preflight.findings import Finding
from distill.train.rows import Rows

# T tokens, D model width

EXACT, ROUNDED = 1e-5, 0.03
"""Largest error of a row: in float32, ten times the largest measured; in bfloat16 or quantized, three times, and less
than half of what one leaking layer makes."""
PROBED, PROBE_TOKENS = 8, 2048
"""Rows put end to end at most, and their tokens; two rows at least, however long."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """How far packed rows are from themselves."""

    error: float
    """Of the row that is furthest."""
    worst: int
    """Which that is."""
    rows: int
    tokens: int
    dtype: str

    @property
    def finding(self) -> Finding:
        """As one line."""
        return Finding(
            "packing", f"isolation error {self.error:.1e} over {self.rows} rows, {self.tokens:,} tokens, {self.dtype}"
        )


def check_packing(model: Any, rows: Rows, collate: Collate, *, bf16: bool) -> Isolation | None:
    """Compare. None where the training set is one row. Raises UserError when rows see each other.

    `bf16`: products run in bfloat16, as `TrainConfig.bf16` says. Leaves the model's mode as it is.
    """
    if len(rows.token_ids) < 2:
        return None
    found = measure_packing(model, rows, collate, bf16=bf16)
    allowed = EXACT if found.dtype == "float32" else ROUNDED
    if not found.error <= allowed:  # NaN is refused too
        raise UserError(
            f"{rows.places[found.worst]}: packed with {found.rows - 1} other rows its hidden states change by "
            f"{found.error:.2g} of their size, {allowed:g} is allowed: model_type {model.config.model_type} lets "
            "packed rows see each other; set packing = false"
        )
    return found


def measure_packing(model: Any, rows: Rows, collate: Collate, *, bf16: bool) -> Isolation:
    """The error of two rows or more, whatever it is. Raises UserError where the model refuses packed rows itself."""
    import torch

    chosen = _chosen(rows)
    was_training = model.training
    model.eval()
    try:
        with (
            torch.no_grad(),
            torch.autocast(model.device.type, torch.bfloat16, enabled=bf16),
            warnings.catch_warnings(),
        ):
            # Of norms in float32 behind products in bfloat16; with gradients, as in training, torch does not say it.
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
            alone = [_hidden(model, {"input_ids": torch.tensor([rows.token_ids[row]])}) for row in chosen]
            together = _packed(model, rows, chosen, collate).split([len(part) for part in alone])
    finally:
        model.train(was_training)
    errors = [
        float((packed_TD.float() - alone_TD.float()).norm() / alone_TD.float().norm())
        for packed_TD, alone_TD in zip(together, alone, strict=True)
    ]
    exact = not bf16 and all(weight.dtype == torch.float32 for weight in model.parameters())
    dtype = "float32" if exact else "bfloat16" if bf16 else "quantized"
    worst = max(range(len(chosen)), key=lambda place: (errors[place] != errors[place], errors[place]))
    return Isolation(errors[worst], chosen[worst], len(chosen), sum(map(len, alone)), dtype)


def _chosen(rows: Rows) -> list[int]:
    """Rows from all over the set, short ones first, as many as fit."""
    chosen: list[int] = []
    tokens = 0
    for row in sorted(spread(rows, PROBED), key=lambda place: len(rows.token_ids[place])):
        tokens += len(rows.token_ids[row])
        if len(chosen) >= 2 and tokens > PROBE_TOKENS:
            break
        chosen.append(row)
    return chosen


def _packed(model: Any, rows: Rows, chosen: list[int], collate: Collate) -> Any:
    batch = collate([{"input_ids": rows.token_ids[row], "labels": rows.labels[row]} for row in chosen])
    del batch["labels"]
    try:
        return _hidden(model, batch)
    except (ValueError, NotImplementedError) as error:  # alone they went through, so it is the packing it refuses
        raise UserError(
            f"packing = true: model_type {model.config.model_type} refuses packed rows "
            f"({str(error).strip().splitlines()[0]}); set packing = false"
        ) from error


def _hidden(model: Any, batch: dict[str, Any]) -> Any:
    """(T, D) of one pass over one row of a batch, called as a training step calls it, the head left out."""
    inputs = {key: value.to(model.device) if hasattr(value, "to") else value for key, value in batch.items()}
    return model.get_decoder()(**inputs, **CALL).last_hidden_state[0]
