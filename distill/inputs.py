"""Inputs: the fields of a step's table that name other steps, `table.field` those of a table in it."""

from collections.abc import Mapping, Set
from typing import Any


def named(config: Any, field: str) -> Any:
    """What an input field says; None where the table it stands in is not given."""
    for part in field.split("."):
        config = None if config is None else getattr(config, part)
    return config


def without(table: Mapping[str, Any], fields: Set[str], prefix: str = "") -> dict[str, Any]:
    """A table less these fields: what of it a step's result depends on, when a step read is known by its content."""
    return {
        key: without(value, fields, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in table.items()
        if f"{prefix}{key}" not in fields
    }
