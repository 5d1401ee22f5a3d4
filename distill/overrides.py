"""Overrides: `--set table.key=value`, put into a recipe's tables before they are checked."""

import tomllib
from pathlib import Path
from typing import Any

from distill.errors import UserError, did_you_mean


def apply(tables: dict[str, Any], override: str, path: Path) -> None:
    """Put `table.key=value` (or `seed=1`) into `tables`; the value is read as TOML, else as a string.

    A step's inner table that the recipe leaves out is begun; the step itself has to be there. Raises UserError.
    """
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: expected table.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # not TOML, so it is a string
        value = text
    *where, last = key.strip().split(".")
    table = tables
    for depth, part in enumerate(where):
        inner = table.setdefault(part, {}) if depth else table.get(part)
        if not isinstance(inner, dict):
            raise UserError(f"--set {override}: {path} has no table [{'.'.join(where)}]{did_you_mean(part, table)}")
        table = inner
    table[last] = value
