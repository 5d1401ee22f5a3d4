"""A model and its tokenizer: do they belong together, are all weights numbers, does it know so many positions."""

from typing import Any

from distill.errors import UserError
from distill.sampling.protocols import LoadedModel
from distill.train.preflight.findings import Finding
from distill.train.rows import Rows

SPARE_ROWS, SPARE_SHARE = 2048, 0.1
"""Rows an embedding may have beyond its tokenizer's last id, whichever is more. Published models pad up to 1,069
(gpt-oss: 201,088 rows for 200,019 tokens); beyond that the tokenizer is another model's."""


def check_model(loaded: LoadedModel) -> list[Finding]:
    """What every stage that trains looks at, rows or not. Raises UserError naming tensor or token."""
    return [check_weights(loaded), *check_tokenizer(loaded)]


def check_tokenizer(loaded: LoadedModel) -> list[Finding]:
    """Raises UserError where tokenizer and embedding cannot be a pair."""
    tokenizer, folder = loaded.tokenizer, loaded.folder
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    # Not len(tokenizer): a word-level one whose special tokens stand in its text has ids beyond its length.
    last, token = max((place, text) for text, place in tokenizer.get_vocab().items())
    if last >= rows:
        raise UserError(
            f"{folder}: tokenizer: id {last} ({token!r}) is outside the model's {rows} rows of embedding; this "
            "tokenizer is not this model's, or the model was not resized for the tokens added to it"
        )
    spare = rows - 1 - last
    if spare > max(SPARE_ROWS, SPARE_SHARE * rows):
        raise UserError(
            f"{folder}: tokenizer: its last id is {last}, the model has {rows} rows of embedding, {spare:,} more; this "
            "tokenizer is not this model's"
        )
    found = [Finding("vocabulary", f"ids up to {last:,}, {rows:,} rows of embedding")]
    ends = _ends(loaded.model)
    if ends and tokenizer.eos_token_id not in ends:
        found.append(
            Finding(
                "end of turn",
                f"{tokenizer.eos_token!r} (id {tokenizer.eos_token_id}), but the model's generation_config stops at "
                f"{', '.join(map(str, sorted(ends)))}: other programs would run on",
                look=True,
            )
        )
    else:
        found.append(
            Finding("end of turn", f"{tokenizer.eos_token!r} (id {tokenizer.eos_token_id}) learned every turn")
        )
    return found


def check_positions(rows: Rows, loaded: LoadedModel) -> Finding:
    """Raises UserError naming a row longer than the model has positions."""
    most = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    lengths = rows.lengths
    row = max(range(len(lengths)), key=lengths.__getitem__)
    if most is not None and lengths[row] > most:
        raise UserError(
            f"{rows.places[row]}: {lengths[row]} tokens, the model knows {most} positions (max_position_embeddings); "
            f"set max_length = {most} and on_long = 'drop', or extend the model's positions first"
        )
    known = "" if most is None else f", {most:,} positions"
    return Finding("length", f"longest row {lengths[row]:,} tokens{known}, 0 tokens cut, {rows.dropped:,} rows dropped")


def check_weights(loaded: LoadedModel) -> Finding:
    """Raises UserError naming a tensor that holds infinities or no numbers."""
    import torch

    tensors, numbers = 0, 0
    for name, tensor in _tensors(loaded.model):
        tensors, numbers = tensors + 1, numbers + tensor.numel()
        # Least and largest are NaN where any number is: one pass, and no mask as large as the tensor.
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            wrong = int((~tensor.isfinite()).sum())
            raise UserError(
                f"{loaded.folder}: tensor {name}: {wrong:,} of {tensor.numel():,} numbers are infinite or none at all; "
                "take a sound checkpoint (the step that wrote this one diverged, or the file is damaged)"
            )
    return Finding("weights", f"{numbers:,} numbers in {tensors:,} tensors, all finite")


def _tensors(model: Any) -> list[tuple[str, Any]]:
    """Parameters and buffers that hold real numbers; integers of quantized layers have nothing to check."""
    found = [*model.named_parameters(), *model.named_buffers()]
    return [(name, tensor.detach()) for name, tensor in found if tensor.is_floating_point()]


def _ends(model: Any) -> set[int]:
    """Ids at which the model's own configuration stops."""
    generation = getattr(model, "generation_config", None)
    value = getattr(generation, "eos_token_id", None)
    value = model.config.eos_token_id if value is None else value
    return set() if value is None else {value} if isinstance(value, int) else set(value)
