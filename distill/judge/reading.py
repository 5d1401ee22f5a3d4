r"""Reading: a normalized answer as data: values, lists, brackets, matrices, relations.

All of the text must be read: a piece of it is not an answer. What cannot be read is left to
computer algebra. Brackets keep their kind, so an interval, a pair and a set differ.
"""

import re
from functools import lru_cache

from distill.judge.algebra import forms
from distill.judge.algebra.bounds import nearly
from distill.judge.algebra.sums import NoValueError, Value
from distill.judge.answers import REALS, Answer, Group, Infinity, Matrix, Relation, Shape, Union
from distill.judge.expression import (
    CLOSING,
    FUNCTIONS,
    GREEK,
    JOINING,
    OPENING,
    RELATIONS,
    Expressions,
    UnreadableError,
)
from distill.judge.notation import ROW
from distill.judge.numerals import is_unit, unit_name

LONGEST = 400
"""Characters read; longer answers are compared as text only."""
MOST_REMEMBERED = 4096

THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")
NAMED: dict[str, Shape] = {
    **dict.fromkeys(("all real numbers", "all reals", "real numbers", "all real x"), REALS),
    **dict.fromkeys(
        ("no solution", "no solutions", "empty set", "the empty set", "no real solutions"), Group("{}", ())
    ),
}
CAPITAL = re.compile(r"(?<![\\A-Za-z])[A-Z]")
MATRICES = frozenset(["pmatrix", "bmatrix", "matrix", "Bmatrix", "smallmatrix"])
TRAILING_UNIT = re.compile(r"(?:(?<=[\d})°])\s*|(?<=[A-Za-z])\s+)([A-Za-z][A-Za-z ./]*(?:\s?\^\s?\{?\s?[23]\s?\}?)?)$")
CONSTANT_OF_INTEGRATION = re.compile(r"(?<=[^A-Z+\-])\s*\+\s*(?:C|constant)$")
"""A capital: behind it a + b + c is a sum of three unknowns."""


@lru_cache(maxsize=MOST_REMEMBERED)
def read(text: str) -> Answer | None:
    """A normalized text as data, or None. Raises TooLargeError when working it out would take too long."""
    if len(text) > LONGEST:
        return None
    if text.lower() in NAMED:
        return Answer(NAMED[text.lower()])
    integrated = CONSTANT_OF_INTEGRATION.search(text)
    integrated = None if integrated and CAPITAL.search(text, 0, integrated.start()) else integrated
    body = text[: integrated.start()] if integrated else text
    unit = _unit_behind(body)
    if unit:
        body = body[: -len(unit)].rstrip()
    if THOUSANDS.fullmatch(body):
        return Answer(forms.rational(int(body.replace(",", ""))), unit_name(unit))
    reader = Reader(body, +1)
    try:
        shape = reader.whole()
    except (UnreadableError, NoValueError, RecursionError):
        return None
    unknowns = len(shape.variables) if isinstance(shape, Value) else None
    if integrated and unknowns != 1:
        return read(text.replace("C", "{C}"))  # an unknown like the others
    if (unit or reader.degrees) and unknowns != 0 and not _is_list(shape):
        return None
    return Answer(shape, unit_name(unit) or ("degree" if reader.degrees else ""), bool(integrated))


def _is_list(shape: Shape) -> bool:
    return isinstance(shape, Group) and shape.brackets == ","


def _unit_behind(text: str) -> str:
    """Words at the end that say what was counted, or nothing."""
    found = TRAILING_UNIT.search(text)
    if not found:
        return ""
    words = found.group(1)
    known = not any(word in FUNCTIONS or word in JOINING or word in GREEK for word in words.split())
    return words if known and words[1:2].isalpha() and is_unit(f" {words}") else ""


class Reader(Expressions):
    """Shapes around values."""

    def whole(self) -> Shape:
        """All of the text as one shape."""
        items = [self._item()]
        joins = set()
        while self.next in JOINING:
            joins.add(self._take_joining())
            items.append(self._item())
        if self.next:
            self.fail()
        shape: Shape = items[0]
        if joins:
            bounded = all(isinstance(item, Relation) and item.signs != ("=",) for item in items)
            shape = Union(tuple(items)) if joins == {"or"} and bounded else _listed(items)
        if not self.split or self.sign == -1:
            return shape
        return _both(shape, Reader(self.text, -1).whole())

    def _item(self) -> Shape:
        """A chain of sides, often just one."""
        sides, signs = [self._side()], []
        while self.next in RELATIONS:
            signs.append(RELATIONS[self._take()])
            sides.append(self._side())
        return _related(sides, signs) if signs else sides[0]

    def _side(self) -> Shape:
        """A value, an infinity, a bracketed group, or sets joined by unions."""
        parts = [self._part()]
        removed: list[Shape] = []
        while self.next in ("\\cup", "\\setminus", "\\backslash") or (self.next == "-" and parts == [REALS]):
            (parts if self._take() == "\\cup" else removed).append(self._part())
        if self.next == ":":
            while self.next == ":":
                self._take()
                parts.append(self.value())
            return Group(":", tuple(parts))
        if len(parts) == 1 and not removed:
            return parts[0]
        if any(isinstance(part, Value | Infinity | Matrix | Relation) for part in (*parts, *removed)):
            self.fail()
        return Union(tuple(parts), tuple(removed))

    def _part(self) -> Shape:
        start, found = self.place, self._infinity()
        if found is not None:
            return found
        if self._builds_set():
            self.place += 3
            inside = self._item()
            self._take("\\}")
            return inside
        if self.next in OPENING:
            group = self._group()
            if group is not None:
                return group
            self.place = start
        if self.next == "\\mathbb":
            self._take()
            letter = self._braces_text()
            return REALS if letter == "R" else self.fail()
        if self.next == "\\emptyset":
            self._take()
            return Group("{}", ())
        if self.next == "\\begin" and self.tokens[self.place + 2 : self.place + 3]:
            matrix = self._matrix()
            if self.next not in ("", *JOINING, *RELATIONS):
                self.fail()
            return matrix
        return self.value()

    def _builds_set(self) -> bool:
        """Whether a set is given by a condition: {x : x > 3}."""
        ahead = self.tokens[self.place : self.place + 3]
        return len(ahead) == 3 and ahead[0] == "\\{" and len(ahead[1]) == 1 and ahead[2] in (":", "|", "\\vert")

    def _infinity(self) -> Infinity | None:
        sign = -1 if self.next == "-" else 1
        place = self.place + (self.next in ("-", "+"))
        if self.tokens[place : place + 1] not in (["\\infty"], ["infinity"], ["inf"], ["oo"]):
            return None
        self.place = place + 1
        return Infinity(sign)

    def _group(self) -> Group | None:
        """A bracketed group of several items, a set of any number, or None for a bracket around one value."""
        self._deeper()
        opening = self._take()
        items = [] if self.next in CLOSING else [self._item()]
        while self.next in (",", ";"):
            self._take()
            items.append(self._item())
        if self.next not in CLOSING:
            self.fail()
        closing = self._take()
        self.depth -= 1
        brackets = opening[-1] + closing[-1]
        alone = self.next in ("", "\\cup", "\\setminus", "\\backslash", *JOINING, *CLOSING, *RELATIONS)
        return Group(brackets, tuple(items)) if brackets == "{}" or (len(items) > 1 and alone) else None

    def _matrix(self) -> Matrix:
        self._take("\\begin")
        if self._braces_text() not in MATRICES:
            self.fail()
        rows, row = [], [self.value()]
        while self.next in ("&", ROW):
            if self._take() == ROW:
                rows.append(tuple(row))
                row = []
                if self.next == "\\end":
                    break
            row.append(self.value())
        self._take("\\end")
        self._braces_text()
        rows += [tuple(row)] if row else []
        if len({len(each) for each in rows}) != 1:
            self.fail()
        return Matrix(tuple(rows))

    def _take_joining(self) -> str:
        first = self._take()
        if first in (",", ";") and self.next in ("and", "or"):
            first = self._take()
        return first.removeprefix("\\")


def _both(shape: Shape, other: Shape) -> Shape:
    """What a text with a plus-minus sign says: a list or set grows, anything else becomes a list."""
    if isinstance(shape, Group) and isinstance(other, Group) and shape.brackets in (",", "{}"):
        return Group(shape.brackets, (*shape.items, *(item for item in other.items if item not in shape.items)))
    return _listed([shape, other])


def _members(shape: Shape) -> tuple[Shape, ...]:
    return shape.items if isinstance(shape, Group) and shape.brackets == "," else (shape,)


def _listed(items: list[Shape]) -> Shape:
    """A bare list, lists within it spread out."""
    return Group(",", tuple(inner for item in items for inner in _members(item)))


def _related(sides: list[Shape], signs: list[str]) -> Shape:
    """A relation; `x in S` is S, and an approximation behind an exact value is left out."""
    first = sides[0]
    if signs == ["in"]:
        if isinstance(first, Value) and len(first.num) == 1 and len(first.variables) == 1:
            return sides[1]
        raise UnreadableError("a statement about no unknown")
    if signs[-1] == "~":
        if len(sides) == 2 and isinstance(first, Value) and first.variables:
            return Relation(tuple(sides), ("=",))
        if not _close(sides[-2], sides[-1]):
            raise UnreadableError("an approximation that is none")
        sides, signs = sides[:-1], signs[:-1]
        return _related(sides, signs) if signs else sides[0]
    if "in" in signs or "~" in signs:
        raise UnreadableError("a chain of different kinds")
    values = [side for side in sides if isinstance(side, Value)]
    if set(signs) == {"="} and len(values) == len(sides) and not any(value.variables for value in values):
        if all(forms.equal(values[0], value) for value in values[1:]):
            return values[-1]
        raise UnreadableError("an equation that does not hold")
    return Relation(tuple(sides), tuple(signs))


def _close(exact: Shape, rounded: Shape) -> bool:
    """Two numbers within two percent of each other."""
    if not (isinstance(exact, Value) and isinstance(rounded, Value)):
        return False
    one, other = nearly(exact, 1), nearly(rounded, 1)
    return one is not None and other is not None and abs(one[0] - other[0]) <= 0.02 * abs(one[0])
