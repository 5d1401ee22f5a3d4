"""Wire: calls and results between the checks and a program, as plain data and nothing else.

A frame is four bytes of length and JSON. Only exact builtin types cross, and a few of the
standard library that are rebuilt from their content on the other side; a type of the
program's own, which could lie about itself, never does.
"""

import itertools
import json
import os
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

HEADER = 4
"""Bytes before a frame that say how long it is."""
LARGEST_FRAME = 8 << 20
DEEPEST = 200
MOST_ITERATED = 1_000_000
SMALL = 1 << 62
"""Integers up to here go as JSON numbers, larger ones in hexadecimal, which takes no quadratic time."""
ITERATORS: tuple[type, ...] = (
    *map(
        type, (iter([]), iter(()), iter({}), iter(set()), iter(""), iter(range(0)), {}.keys(), {}.values(), {}.items())
    ),
    *(map, filter, zip, reversed, enumerate, itertools.chain, itertools.islice, type(_ for _ in ())),
    *(itertools.combinations, itertools.permutations, itertools.product),
)


class Match:
    """Stands for a match of a pattern on the other side: true, with its texts."""

    def __init__(self, texts: list[str | bytes | None]) -> None:
        self._texts = texts

    def group(self, number: int = 0) -> str | bytes | None:
        """The text of one group; number 0 is the whole match."""
        return self._texts[number]

    def groups(self) -> tuple[str | bytes | None, ...]:
        """The texts of all groups."""
        return tuple(self._texts[1:])


class WireError(Exception):
    """Something that cannot cross, or a frame that is none."""


def encode(value: Any, depth: int = 0) -> Any:
    """`value` as JSON says it. Raises WireError for what is not plain data."""
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        return value if -SMALL < value < SMALL else {"int": hex(value)}
    if depth > DEEPEST:
        raise WireError("nested too deeply")
    if kind is list:
        return [encode(item, depth + 1) for item in value]
    if kind in SEQUENCES:
        return {SEQUENCES[kind]: [encode(item, depth + 1) for item in value]}
    if kind in (dict, Counter, OrderedDict, defaultdict):
        return {"dict": [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in dict.items(value)]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is range:
        return {"range": [encode(part) for part in (value.start, value.stop, value.step)]}
    if kind in (Decimal, Fraction):
        return {kind.__name__: str(value)}
    if kind is re.Match:
        return {"match": [encode(text) for text in (value.group(), *value.groups())]}
    if kind in ITERATORS:
        items = list(itertools.islice(value, MOST_ITERATED + 1))
        if len(items) > MOST_ITERATED:
            raise WireError(f"more than {MOST_ITERATED:,} items")
        return {"iterator": [encode(item, depth + 1) for item in items]}
    raise WireError(f"a value of type {kind.__name__} is not plain data")


SEQUENCES: dict[Any, str] = {tuple: "tuple", set: "set", frozenset: "frozenset", deque: "deque"}
DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "tuple": lambda items: tuple(map(decode, items)),
    "set": lambda items: set(map(decode, items)),
    "frozenset": lambda items: frozenset(map(decode, items)),
    "deque": lambda items: deque(map(decode, items)),
    "dict": lambda pairs: {decode(key): decode(item) for key, item in pairs},
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*map(decode, parts)),
    "Decimal": Decimal,
    "Fraction": Fraction,
    "match": lambda texts: Match(list(map(decode, texts))),
    "iterator": lambda items: iter(list(map(decode, items))),
}


def decode(said: Any) -> Any:
    """What `encode` was given, made anew. Raises WireError on anything it does not write."""
    if isinstance(said, list):
        return [decode(item) for item in said]
    if not isinstance(said, dict):
        return said
    try:
        ((tag, content),) = said.items()
        return DECODERS[tag](content)
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise WireError(f"not a value: {type(error).__name__}") from error


def send(descriptor: int, frame: dict[str, Any]) -> None:
    """One frame. Raises WireError when it is too large, OSError when nobody listens."""
    data = json.dumps(frame).encode()
    if len(data) > LARGEST_FRAME:
        raise WireError(f"more than {LARGEST_FRAME >> 20} MB")
    data = len(data).to_bytes(HEADER, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int) -> dict[str, Any]:
    """One frame. Raises EOFError when the other end is closed, WireError when it is none."""
    size = int.from_bytes(_exactly(descriptor, HEADER), "big")
    if size > LARGEST_FRAME:
        raise WireError(f"more than {LARGEST_FRAME >> 20} MB")
    return parse(_exactly(descriptor, size))


def parse(content: bytes) -> dict[str, Any]:
    """What follows the header. Raises WireError when it is no frame."""
    try:
        frame = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WireError("a frame that is no JSON") from error
    if not isinstance(frame, dict):
        raise WireError("a frame that is no object")
    return frame


def _exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            raise EOFError("the program ended before its checks did")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
