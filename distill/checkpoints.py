"""Checkpoint folders: a transformers folder plus `lineage.json`.

Opens nothing by itself: it says what a folder is, fingerprints it, and writes one whole.
"""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.content import file_fingerprint
from distill.errors import UserError
from distill.records import Record, fingerprint, reason
from distill.runs import sync, write_durably
from distill.strict_json import read_json

LINEAGE = "lineage.json"
CONFIG = "config.json"
LARGEST_CONFIG = 2**20
"""Bytes; the published ones have some thousands."""


class Lineage(Record):
    """Where a checkpoint comes from, newest first."""

    name: str
    stage: str
    parent: "Lineage | None" = None
    data: str | None = None
    """Fingerprint of the run folder it was trained on."""


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint; UserError when the folder is none."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder}: not a checkpoint folder ({CONFIG} is missing; expected a transformers folder)")
    config = read_json(path, LARGEST_CONFIG)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UserError(f"{path}: key model_type: missing; expected a transformers model config")
    return config


def checkpoint_fingerprint(folder: Path) -> str:
    """Content hash of weights, config and tokenizer; notes and logs beside them do not count."""
    read_config(folder)
    names = (CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    files = [*sorted(folder.glob("*.safetensors")), *(folder / name for name in names)]
    return fingerprint([[path.name, file_fingerprint(path)] for path in files if path.is_file()])


def read_lineage(folder: Path) -> Lineage | None:
    """The lineage of a checkpoint, or None for a folder from elsewhere."""
    path = folder / LINEAGE
    if not path.is_file():
        return None
    try:
        return Lineage.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: not a lineage ({reason(error)})") from error


def save_checkpoint(
    model: Any, tokenizer: Any, folder: Path, lineage: Lineage, state: Mapping[str, Any] | None = None
) -> None:
    """Write model, tokenizer and lineage into an existing folder. `state`: the whole model's where this is a part."""
    from safetensors import SafetensorError

    try:
        model.save_pretrained(folder, state_dict=state)
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" not in str(error):
            raise
        raise OSError(errno.ENOSPC, "disk full", str(folder)) from error
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        if path.is_file():
            sync(path)  # the lineage says that all of it is here
    write_durably(folder / LINEAGE, lineage.model_dump_json(indent=2, exclude_none=True))
