"""Formulas: the TeX a model wrote as MathML that a browser sets by itself, offline.

Parsing is latex2mathml's; its tree is written out here, element by element, because the library's own
writer takes escaping back (`\\text{<b>}` would become markup) and hands links and styles through.
Elements and attributes are those of MathML Core (W3C), so what an engine would ignore is turned into
classes: frames, strikes and column alignment. The source stays inside as an annotation, for search,
copying and reading aloud.
Not covered: macros a text defines itself, and formulas the library cannot read; they stay as written.
"""

import html
from functools import lru_cache
from typing import Final
from xml.etree.ElementTree import Element

from latex2mathml import exceptions
from latex2mathml.converter import Converter

from evals.report.drawing import text

LONGEST: Final = 1500
"""Characters of a formula that is set; a longer one stays as written."""
DEEPEST: Final = 40
"""Braces inside one another, and elements inside one another by twice as many."""

_MACROS = ("\\newcommand", "\\renewcommand", "\\providecommand", "\\def", "\\gdef", "\\let")
_UNREADABLE: tuple[type[Exception], ...] = (
    *(kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    StopIteration,
    RuntimeError,  # a StopIteration within a generator, or recursion too deep
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
)
"""What the library raises on what it cannot read: it checks little, and ends where it stumbles."""
_TAGS = frozenset(
    {
        "mrow",
        "mi",
        "mn",
        "mo",
        "mtext",
        "mspace",
        "mfrac",
        "msqrt",
        "mroot",
        "msub",
        "msup",
        "msubsup",
        "munder",
        "mover",
        "munderover",
        "mmultiscripts",
        "mprescripts",
        "none",
        "mtable",
        "mtr",
        "mtd",
        "mpadded",
        "mphantom",
        "mstyle",
    }
)
_ATTRIBUTES = {
    "mathvariant": frozenset({"normal"}),
    "stretchy": frozenset({"true", "false"}),
    "fence": frozenset({"true", "false"}),
    "largeop": frozenset({"true", "false"}),
    "movablelimits": frozenset({"true", "false"}),
    "accent": frozenset({"true", "false"}),
    "displaystyle": frozenset({"true", "false"}),
    "scriptlevel": frozenset({"0", "1", "2"}),
    "linethickness": frozenset({"0"}),
    "form": frozenset({"prefix", "infix", "postfix"}),
}
"""Attributes that are passed on, with the values they may have."""


@lru_cache(maxsize=50_000)
def formula(tex: str, *, block: bool) -> str | None:
    """MathML of `tex`, set in the line or as a block of its own; None where it should stay as written."""
    if len(tex) > LONGEST or _depth(tex) > DEEPEST or any(macro in tex for macro in _MACROS):
        return None
    try:
        tree = Converter(display="block" if block else "inline").convert_to_element(tex)
    except _UNREADABLE:
        return None
    inside = "".join(_markup(child, 0) for child in tree)
    if len(inside) > 60 * LONGEST:
        return None
    display = ' display="block"' if block else ""
    return (
        f"<math{display}><semantics><mrow>{inside}</mrow>"
        f'<annotation encoding="application/x-tex">{text(tex)}</annotation></semantics></math>'
    )


def _depth(tex: str) -> int:
    depth = most = 0
    for letter in tex:
        depth += (letter == "{") - (letter == "}")
        most = max(most, depth)
    return most


def _markup(element: Element, depth: int) -> str:
    if depth > 2 * DEEPEST:
        return "<mtext>…</mtext>"
    inside = text(html.unescape(element.text)) if element.text else ""
    inside += "".join(_markup(child, depth + 1) for child in element)
    if element.tag == "menclose":
        notation = element.attrib.get("notation", "")
        return f'<mrow class="{"struck" if "strike" in notation else "boxed"}">{inside}</mrow>'
    tag = element.tag if element.tag in _TAGS else "mrow"
    kept = "".join(f' {name}="{value}"' for name, value in element.attrib.items() if value in _ATTRIBUTES.get(name, ()))
    if element.attrib.get("columnalign") in ("left", "right"):
        kept += f' class="{element.attrib["columnalign"]}"'
    if tag == "mspace":
        kept += f' width="{_width(element.attrib.get("width", ""))}"'
    return f"<{tag}{kept}>{inside}</{tag}>"


def _width(value: str) -> str:
    """A space in em, from nothing to three; anything else is a plain one."""
    number = value.removesuffix("em")
    try:
        return f"{min(max(float(number), 0.0), 3.0):g}em"
    except ValueError:
        return "0.3em"
