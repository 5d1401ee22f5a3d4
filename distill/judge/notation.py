r"""Notation: one spelling for spellings that mean the same, before anything is compared.

Full-width characters, unicode mathematics (½, x², √2, ∞, ≤), LaTeX spacing, sizes and
delimiters, text wrappers, currency signs. Changes no meaning and reads no numbers.
"""

import re

ROW = "⏎"
"""Ends a row of a matrix; LaTeX's double backslash would be lost among the spacing."""
LONGEST = 20_000
"""Characters; of what is longer only the ends are trimmed."""

FULL_WIDTH = {0xFF01 + place: 0x21 + place for place in range(94)} | {0x3000: " ", 0x3002: "."}
SIGNS = {
    **dict.fromkeys("−–—‐‑﹣", "-"),
    **dict.fromkeys("×⋅·∙", r"\cdot "),
    "÷": "/", "⁄": "/", "∕": "/", "∞": r"\infty ", "π": r"\pi ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ",
    "º": r"^\circ ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "λ": r"\lambda ", "√": r"\sqrt ", "、": ",", "″": '"', "′": "'", "“": "", "”": "", "‘": "'", "’": "'",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\ufeff": "",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}",
    "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}",
}  # fmt: skip
CHARACTERS = str.maketrans({**{chr(code): to for code, to in FULL_WIDTH.items()}, **SIGNS})
RAISED, RAISED_AS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n"
SUPERSCRIPT = re.compile(f"[{RAISED}]+")
LOWERED, LOWERED_AS = "₀₁₂₃₄₅₆₇₈₉", "0123456789"
SUBSCRIPT = re.compile(f"[{LOWERED}]+")

ROWS = re.compile(r"\\\\(?:\[[^\]]*\])?|\\cr(?![A-Za-z])")
MARKUP = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|rm|bf|mathstrut)(?![A-Za-z])\.?"
    r"|\\[!,;: ]|~|\\q?quad(?![A-Za-z])|\$|\\\(|\\\)|\\\[|\\\]|\\[hv]?phantom\s*(?:\{[^{}]*\}|[^\s{}\\])"
)
TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox|operatorname)\s*\*?\s*\{([^{}]*)\}")
SYNONYMS = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), "frac"), **dict.fromkeys(("leq", "leqslant"), "le"),
    **dict.fromkeys(("geq", "geqslant"), "ge"), "neq": "ne", "lt": "<", "gt": ">", "times": "cdot", "ast": "cdot",
    "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]", "dbinom": "binom", "tbinom": "binom",
    "varnothing": "emptyset", "degree": "circ", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "land": "and",
    "mid": "vert", "lvert": "vert", "rvert": "vert",
}  # fmt: skip
COMMAND = re.compile(r"\\([A-Za-z]+)")
DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|(?<!\^)\\circ(?![A-Za-z])")
GROUPED = re.compile(r"(?<=\d),\\!\s?(?=\d{3})")
"""LaTeX's way to set a thousands separator close."""
SHORT_FRACTION = re.compile(r"\\frac\s*(?:(\d)|(\{[^{}]*\}))\s*(?:(\d)|(\{[^{}]*\}))")
IDLE_SPACE = re.compile(r"(?<![\w.,]) | (?![\w.,])")
CURRENCY = "¤"
"""Stands for the dollar sign of an amount; dollars around mathematics go."""
AMOUNT = re.compile(r"^([^$]*)(?<!\\)\$(\s*[\d.][^$]*)$")
SPELLED_DEGREES = re.compile(r"(?<=\d)\s*degrees?\b(?!\s*(?:[CFK]\b|Celsius|Fahrenheit))", re.IGNORECASE)
SPACED_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.,])")


def normalize(text: str) -> str:
    """The text in the spelling that everything here compares."""
    text = text.strip()
    if len(text) > LONGEST:
        return text.strip(" $*_.")
    if not text.isascii():
        text = SUPERSCRIPT.sub(lambda found: f"^{{{_mapped(found, RAISED, RAISED_AS)}}}", text)
        text = SUBSCRIPT.sub(lambda found: f"_{{{_mapped(found, LOWERED, LOWERED_AS)}}}", text)
        text = text.translate(CHARACTERS)
    text = AMOUNT.sub(rf"\1{CURRENCY}\2", text.replace(r"\$", CURRENCY))
    text = _plain_commands(text) if "\\" in text else MARKUP.sub("", text)
    if not text.isalnum():
        text = text.replace("{,}", ",").replace("**", "^" if _power(text) else "")
        text = SPELLED_DEGREES.sub("°", re.sub(r"\s+", " ", text))
        text = _unbraced(text.strip(" *_`").removeprefix(r"\approx").rstrip(",;").removesuffix(".").strip(" *_`"))
        text = SPACED_THOUSANDS.sub(lambda found: found.group().replace(" ", ""), text)
    return text


def squeezed(text: str) -> str:
    """Without the spaces that say nothing; 1 1/2 is not 11/2."""
    return IDLE_SPACE.sub("", text)


def _unbraced(text: str) -> str:
    """Without braces around the whole of it, three layers at most."""
    for _ in range(3):
        if not text.startswith("{") or not text.endswith("}") or text.endswith("\\}"):
            break
        depth = 0
        for place, character in enumerate(text):
            depth += (character == "{") - (character == "}")
            if depth == 0 and place < len(text) - 1:
                return text
        text = text[1:-1].strip()
    return text


def _plain_commands(text: str) -> str:
    text = GROUPED.sub("", ROWS.sub(f" {ROW} ", text))
    text = COMMAND.sub(lambda found: _synonym(found.group(1)), text.replace(r"\%", "%"))
    text = MARKUP.sub(lambda found: " " if found.group() in (r"\ ", r"\quad", r"\qquad", "~") else "", text)
    text = TEXT.sub(r" \1 ", text)
    text = DEGREES.sub("°", text)
    return SHORT_FRACTION.sub(_braced, text)


def _synonym(name: str) -> str:
    other = SYNONYMS.get(name, name)
    return f"\\{other}" if other.isalpha() or other in "{}" else other


def _braced(found: re.Match[str]) -> str:
    top, bottom = (found.group(2) or f"{{{found.group(1)}}}"), (found.group(4) or f"{{{found.group(3)}}}")
    return f"\\frac{top}{bottom}"


def _mapped(found: re.Match[str], signs: str, plain: str) -> str:
    return "".join(plain[signs.index(sign)] for sign in found.group())


def _power(text: str) -> bool:
    """Whether two stars are Python's power rather than bold type."""
    return text.count("**") == 1 and not text.startswith("**")
