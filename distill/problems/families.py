"""The procedural families by name. A new family is one file and one row here."""

from pydantic import ValidationError

from distill.errors import UserError, did_you_mean
from distill.problems.expressions import Expressions
from distill.problems.family import Family
from distill.problems.functions import Functions
from distill.problems.needles import Needles
from distill.problems.stories import Stories

FAMILIES: dict[str, type[Family]] = {family.name: family for family in (Stories, Expressions, Functions, Needles)}

_STORIES: dict[str, object] = {
    "names": 16,
    "items": 12,
    "phrasings": 5,
    "operations": ["add", "subtract", "double", "halve", "triple"],
}
WIDEST: dict[str, dict[str, object]] = {
    "stories": _STORIES,
    "expressions": {"verbs": 6, "objects": 3, "endings": 5, "operations": ["+", "-", "*"]},
    "functions": {
        "names": 10,
        "variables": 6,
        "intros": 4,
        "phrasings": 3,
        "operations": ["add", "subtract", "multiply", "square", "double", "negate"],
    },
    "needles": {**_STORIES, "hops": 16, "unit": 128},
}
"""Every knob of every family at its widest: the hardest worlds there are."""


def family(name: str, world: dict[str, object] | None = None) -> Family:
    """The family of that name with the knobs of `world` set. Raises UserError naming both."""
    if name not in FAMILIES:
        raise UserError(f"family {name!r}: unknown{did_you_mean(name, FAMILIES)}; there are {', '.join(FAMILIES)}")
    kind = FAMILIES[name]
    try:
        return kind.model_validate(world or {})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        knob = ".".join(str(part) for part in first["loc"])
        hint = did_you_mean(knob, kind.model_fields) if first["type"] == "extra_forbidden" else ""
        raise UserError(f"family {name}: world.{knob}: {first['msg']}{hint}, got {first['input']!r}") from error
