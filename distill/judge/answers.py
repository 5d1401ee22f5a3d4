r"""Answers: what an answer can be once it is read: a value, or values in a shape.

Brackets keep their kind, so an interval, a pair and a set differ. Reading is `reading`'s
business, comparing is that of `shapes`.
"""

from dataclasses import dataclass

from distill.judge.algebra.sums import Value


@dataclass(frozen=True, slots=True)
class Infinity:
    """Plus or minus infinity, where an end or a lone answer may be."""

    sign: int


@dataclass(frozen=True, slots=True)
class Group:
    """Several answers between brackets: `()`, `[)`, `{}`, `,` for a bare list, `:` for a ratio."""

    brackets: str
    items: tuple["Shape", ...]


@dataclass(frozen=True, slots=True)
class Union:
    """Sets joined."""

    parts: tuple["Shape", ...]
    removed: tuple["Shape", ...] = ()
    """Points taken out of them."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain such as 0 < x <= 1, or an equation."""

    sides: tuple["Shape", ...]
    signs: tuple[str, ...]


Shape = Value | Infinity | Group | Union | Matrix | Relation
REALS = Group("()", (Infinity(-1), Infinity(1)))


@dataclass(frozen=True, slots=True)
class Answer:
    """What was read, with what stood behind it."""

    shape: Shape
    unit: str = ""
    integrated: bool = False
    """Ends in `+ C`."""
