"""Overrides: `--set table.key=value`, put into a recipe's tables before they are checked."""

import tomllib
from pathlib import Path
from typing import Any

from distill.errors import UserError, did_you_mean


def apply(tables: dict[str, Any], override: str, path: Path) -> None:
    """Put `table.key=value` (or `seed=1`) into `tables`; the value is read as TOML, else as a string.

    Raises UserError.
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
    for part in where:
        if not isinstance(table.get(part), dict):
            raise UserError(f"--set {override}: {path} has no table [{'.'.join(where)}]{did_you_mean(part, table)}")
        table = table[part]
    table[last] = value
