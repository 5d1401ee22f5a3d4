"""JSON from elsewhere: bounded, every key once, no NaN, and what is wrong with it in one line.

The standard parser keeps the last of two equal keys, takes NaN and Infinity, and answers
deep nesting with RecursionError; another reader of the same file may decide otherwise.
"""

import json
from pathlib import Path
from typing import Any

from distill.errors import UserError, shown


def read_json(path: Path, largest: int) -> Any:
    """What a file of at most `largest` bytes says. Raises UserError naming the file."""
    size = path.stat().st_size
    if size > largest:
        raise UserError(f"{path}: {size:,} bytes, expected at most {largest:,}")
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: bytes, where: str) -> Any:
    """What `text` says; `where` opens the error line."""
    try:
        return STRICT.decode(text.decode("utf-8"))
    except RecursionError as error:
        raise UserError(f"{where}: not JSON that can be read (nested too deep)") from error
    except ValueError as error:
        raise UserError(f"{where}: not JSON that can be read ({error})") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


STRICT = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
"""For values that stand one behind another in a longer text; raises ValueError or RecursionError."""
