r"""Shapes: when two answers that were read as data are the same.

Kinds are kept apart: a pair in round brackets is no interval with closed ends, no set and no
list. Sets and lists are compared in any order, unions as sets of points, equations up to a
factor, inequalities in one unknown as intervals. An assignment (x = 5, f(x) = 2x) stands
for what is assigned. True and False are certain; None is left to computer algebra.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distill.judge.algebra import forms
from distill.judge.algebra.sums import ONE, Value
from distill.judge.answers import REALS, Group, Infinity, Matrix, Relation, Shape, Union

Match = Callable[[Shape, Shape], bool | None]
FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}
LISTS = (",", "{}")


@dataclass(frozen=True, slots=True)
class Span:
    """A connected piece of the real line; a single point has equal ends."""

    low: Value | Infinity
    high: Value | Infinity
    low_in: bool
    high_in: bool


def same_shape(gold: Shape, said: Shape, *, up_to_constant: bool = False) -> bool | None:
    """Whether two answers are the same; `up_to_constant`: both are integrals that end in + C."""
    if isinstance(gold, Relation) and isinstance(said, Relation):
        same = _same_relation(gold, said)
        if same is not None:
            return same
        if _kind(_name(gold)) == _kind(_name(said)) and _name(gold) != _name(said):
            return False
    gold, said = assigned(gold), assigned(said)
    if isinstance(gold, Value) and isinstance(said, Value):
        if up_to_constant:
            return not forms.add(gold, forms.negative(said)).variables or forms.equal(gold, said)
        return forms.equal(gold, said)
    if isinstance(gold, Infinity) and isinstance(said, Infinity):
        return gold.sign == said.sign
    if isinstance(gold, Matrix) and isinstance(said, Matrix):
        return _same_matrix(gold, said)
    if isinstance(gold, Group) and isinstance(said, Group):
        return _same_group(gold, said)
    first, second = _spans(gold), _spans(said)
    if first is not None and second is not None and not (_is_list(gold) or _is_list(said)):
        return _same_spans(first, second)
    if {type(gold), type(said)} in ({Matrix, Group}, {Relation, Group}) or (_open(gold) and _open(said)):
        return None
    return _lone(gold, said)


def assigned(shape: Shape) -> Shape:
    """What an assignment to one unknown assigns; any other shape as it is."""
    if not isinstance(shape, Relation) or shape.signs != ("=",):
        return shape
    for name, value in (shape.sides, shape.sides[::-1]):
        if isinstance(name, Value) and _assigns(name, value):
            return value
    return shape


def _assigns(name: Value, value: Shape) -> bool:
    """x = 5, f(x) = 2x, but neither x = 2x nor f(y) = 2x."""
    if not _is_name(name):
        return False
    used = value.variables if isinstance(value, Value) else frozenset()
    if _kind(name) == "variable":
        return not name.variables & used
    return name.variables <= used or not used


def _is_name(value: Value) -> bool:
    """One unknown, or a function's name with its argument: x, f(x)."""
    return _kind(value) in ("variable", "call")


def _kind(value: Value | None) -> str:
    """The kind of the one atom that a value is, `call` for f(x); nothing for other values."""
    if value is None or len(value.num) != 1 or value.den != ONE:
        return ""
    ((monomial, factor),) = value.num.items()
    return monomial[0][0].kind.split()[0] if factor == 1 and len(monomial) == 1 and monomial[0][1] == 1 else ""


def _name(relation: Relation) -> Value | None:
    """The side of an assignment that is assigned to."""
    if relation.signs != ("=",):
        return None
    sides = (relation.sides, relation.sides[::-1])
    return next((name for name, value in sides if isinstance(name, Value) and _assigns(name, value)), None)


def _lone(gold: Shape, said: Shape) -> bool | None:
    """A list of one is its member."""
    for one, other in ((gold, said), (said, gold)):
        if isinstance(one, Group) and one.brackets in LISTS and not isinstance(other, Group):
            return same_shape(one.items[0], other) if len(one.items) == 1 else False
    return False


def _open(shape: Shape) -> bool:
    """A relation or value with unknowns, which may be two ways to say one thing."""
    return isinstance(shape, Relation) or (isinstance(shape, Value) and bool(shape.variables))


def _is_list(shape: Shape) -> bool:
    return isinstance(shape, Group) and shape.brackets == ","


def _same_group(gold: Group, said: Group) -> bool | None:
    if gold.brackets in LISTS and said.brackets in LISTS and _named(gold) == _named(said):
        return _any_order(gold.items, said.items, same_shape)
    alike = gold.brackets == said.brackets or (gold.brackets in LISTS and said.brackets in LISTS)
    if not alike or len(gold.items) != len(said.items):
        return False
    if gold.brackets == ":":
        crossed = ((one, other) for one, other in zip(_crossed(gold, said), _crossed(said, gold), strict=True))
        return _all(forms.equal(one, other) for one, other in crossed)
    return _all(same_shape(one, other) for one, other in zip(gold.items, said.items, strict=True))


def _named(group: Group) -> bool:
    """Values of several unknowns, each with its name: against bare values the order counts."""
    names = [_name(item) for item in group.items if isinstance(item, Relation)]
    return len(names) > 1 and None not in names and len({name.variables for name in names if name}) == len(group.items)


def _crossed(one: Group, other: Group) -> list[Value]:
    """Each term of a ratio times the first of the other ratio."""
    first = other.items[0]
    return [forms.multiply(item, first) for item in one.items if isinstance(item, Value) and isinstance(first, Value)]


def _same_matrix(gold: Matrix, said: Matrix) -> bool | None:
    if [len(row) for row in gold.rows] != [len(row) for row in said.rows]:
        return False
    cells = zip(sum(gold.rows, ()), sum(said.rows, ()), strict=True)
    return _all(forms.equal(one, other) for one, other in cells)


def _same_relation(gold: Relation, said: Relation) -> bool | None:
    if gold.signs == said.signs and _all(same_shape(*pair) for pair in zip(gold.sides, said.sides, strict=True)):
        return True
    turned = tuple(FLIPPED[sign] for sign in reversed(said.signs))
    backwards = zip(gold.sides, reversed(said.sides), strict=False)
    if gold.signs == turned and _all(same_shape(*pair) for pair in backwards):
        return True
    first, second = _spans(gold), _spans(said)
    if first is not None and second is not None:
        return _same_spans(first, second) if _unknown(gold) == _unknown(said) else False
    if len(gold.signs) == len(said.signs) == 1:
        return _same_two_sided(gold, said)
    return None


def _same_two_sided(gold: Relation, said: Relation) -> bool | None:
    """Equations and inequalities are the same up to a factor; a negative one turns the sign."""
    first, second = _difference(gold), _difference(said)
    if first is None or second is None:
        return None
    scaled = forms.proportional(first, second)
    if scaled:
        sign = said.signs[0] if forms.ratio_sign(first, second) > 0 else FLIPPED[said.signs[0]]
        return gold.signs[0] == sign
    return False if forms.linear(first) and forms.linear(second) else None


def _difference(relation: Relation) -> Value | None:
    left, right = relation.sides
    if not (isinstance(left, Value) and isinstance(right, Value)):
        return None
    difference = forms.add(left, forms.negative(right))
    return difference if difference.den == ONE else None


def _unknown(relation: Relation) -> frozenset[str]:
    return frozenset(name for side in relation.sides if isinstance(side, Value) for name in side.variables)


def _spans(shape: Shape) -> list[Span] | None:
    """The real numbers a shape stands for, sorted and merged; None when it is no such set, or not certainly."""
    pieces = _pieces(shape)
    return None if pieces is None else _merged(pieces)


def _pieces(shape: Shape) -> list[Span] | None:
    if isinstance(shape, Union):
        parts = [_pieces(part) for part in shape.parts]
        if any(part is None for part in parts):
            return None
        return _without([span for part in parts for span in part or ()], shape.removed)
    if isinstance(shape, Group) and shape.brackets == "{}":
        points = [item for item in shape.items if isinstance(item, Value) and not item.variables]
        return [Span(item, item, True, True) for item in points] if len(points) == len(shape.items) else None
    if isinstance(shape, Group) and len(shape.items) == 2 and shape.brackets not in (",", ":"):
        low, high = shape.items
        if isinstance(low, Value | Infinity) and isinstance(high, Value | Infinity):
            return [Span(low, high, shape.brackets[0] == "[", shape.brackets[1] == "]")]
    return _solved(shape) if isinstance(shape, Relation) else None


def _without(pieces: Sequence[Span], removed: Sequence[Shape]) -> list[Span] | None:
    """The pieces with single points taken out of them."""
    spans = list(pieces) if not removed else _merged(pieces)
    for point in (item for part in removed if isinstance(part, Group) for item in part.items):
        if spans is None or not isinstance(point, Value):
            return None
        cut: list[Span] = []
        for span in spans:
            below, above = _order(span.low, point), _order(point, span.high)
            if below is None or above is None:
                return None
            if below > 0 or above > 0:
                cut.append(span)
                continue
            cut += [Span(span.low, point, span.low_in, False)] if below < 0 else []
            cut += [Span(point, span.high, False, span.high_in)] if above < 0 else []
        spans = cut
    return spans


def _solved(relation: Relation) -> list[Span] | None:
    """The interval of an inequality whose unknown stands alone: x > 3, 0 < x <= 1, x != 2."""
    sides, signs = relation.sides, relation.signs
    if len(sides) == 2 and isinstance(sides[1], Value) and _is_name(sides[1]):
        sides, signs = sides[::-1], (FLIPPED[signs[0]],)
    named = sides[len(sides) // 2] if len(sides) == 3 else sides[0]
    ends = [side for side in sides if side is not named]
    if not (isinstance(named, Value) and _is_name(named)) or any(isinstance(e, Value) and e.variables for e in ends):
        return None
    if len(sides) == 2 and isinstance(ends[0], Value):
        end, sign = ends[0], signs[0]
        if sign == "!=":
            return _pieces(Union((REALS,), (Group("{}", (end,)),)))
        if sign in ("<", "<="):
            return [Span(Infinity(-1), end, False, sign == "<=")]
        return [Span(end, Infinity(1), sign == ">=", False)] if sign in (">", ">=") else None
    if len(sides) == 3 and {sign[0] for sign in signs} in ({"<"}, {">"}):
        if signs[0][0] == ">":
            ends, signs = ends[::-1], signs[::-1]
        low, high = ends
        if isinstance(low, Value | Infinity) and isinstance(high, Value | Infinity):
            return [Span(low, high, signs[0][1:] == "=", signs[1][1:] == "=")]
    return None


def _merged(pieces: Sequence[Span]) -> list[Span] | None:
    """Sorted, with pieces that touch joined; None when their order was not found out."""
    ordered: list[Span] = []
    for piece in pieces:
        place = 0
        for place, other in enumerate(ordered):  # noqa: B007 - insertion sort with an order that may be unknown
            before = _order(piece.low, other.low)
            if before is None:
                return None
            if before < 0 or (before == 0 and piece.low_in):
                break
        else:
            place = len(ordered)
        ordered.insert(place, piece)
    merged: list[Span] = []
    for piece in ordered:
        touching = _order(merged[-1].high, piece.low) if merged else -1
        if touching is None:
            return None
        if merged and (touching > 0 or (touching == 0 and (merged[-1].high_in or piece.low_in))):
            further = _order(merged[-1].high, piece.high)
            if further is None:
                return None
            last = merged.pop()
            high_in = last.high_in or piece.high_in if further == 0 else (last if further > 0 else piece).high_in
            merged.append(Span(last.low, last.high if further > 0 else piece.high, last.low_in, high_in))
        else:
            merged.append(piece)
    return merged


def _order(left: Value | Infinity, right: Value | Infinity) -> int | None:
    if isinstance(left, Infinity):
        return 0 if isinstance(right, Infinity) and left.sign == right.sign else left.sign
    return -right.sign if isinstance(right, Infinity) else forms.order(left, right)


def _same_spans(gold: Sequence[Span], said: Sequence[Span]) -> bool | None:
    if len(gold) != len(said):
        return False
    return _all(_same_span(one, other) for one, other in zip(gold, said, strict=True))


def _same_span(gold: Span, said: Span) -> bool | None:
    if (gold.low_in, gold.high_in) != (said.low_in, said.high_in):
        return False
    return _all([same_shape(gold.low, said.low), same_shape(gold.high, said.high)])


def _all(found: object) -> bool | None:
    """False when one is, True when all are, else None."""
    seen = list(found)  # type: ignore[call-overload]
    if any(each is False for each in seen):
        return False
    return True if all(seen) else None


def _any_order(gold: Sequence[Shape], said: Sequence[Shape], match: Match) -> bool | None:
    """Whether the members can be paired; None when an open pair could decide it."""
    if len(gold) != len(said):
        return False
    left, certain = list(said), True
    for one in gold:
        verdicts = [match(one, other) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            certain = False
        else:
            return False
    return True if certain else None
