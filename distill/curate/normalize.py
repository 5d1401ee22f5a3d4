r"""Normalize: when two texts count as the same, what a word is, and what a figure is.

Words are runs of letters and digits in lower case, so spacing, punctuation and TeX marks
do not hide a copied problem; nor do wide letters, invisible characters and HTML entities.
For duplicates a text is read more closely (`tokens`): the
notations of one formula become one (`\dfrac12`, `\frac{1}{2}` and `1/2`; `\leq`, `<=` and
`≤`; `1{,}000` and `1,000`), comments of fenced code go, and what decides the answer, the
figures, is told from the words around it. Does not stem, translate, transliterate or rename
variables; reads English number words only.
"""

import html
import re
import unicodedata

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and Han: scripts without spaces, where each character is a word."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,31}\d{0,2});")
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")
"""Soft hyphens, joiners, marks of direction and variants: what a page carries and nobody sees."""


def words(text: str) -> list[str]:
    """Lower-case alphanumeric runs as they look: `\\frac{1}{2} OF X_1` -> frac 1 2 of x 1, `ｘ² &gt; 4` -> x 2 4."""
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text).translate(_CHARACTERS))
    return _WORD.findall(text.lower())


def squeezed(text: str) -> str:
    """The text with every run of white space as one space: signs and letter case still count."""
    return " ".join(text.split())


_SIGNS = "+*/^=<>≤≥≠≡≈±∓−%|∪∩∈∉⊂⊆∞∑∏∫∠⊥∥→⇒⌊⌋⌈⌉⟦⟧′"
"""Signs that count. A minus and brackets are `−⟦⟧` where they were found to be mathematics, else punctuation."""
_TOKEN = re.compile(rf"[.?!](?=\s|$)|\d+(?:\.\d+)?|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|[{re.escape(_SIGNS)}]")

_NUMBERS = {
    "zero": "0", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14", "fifteen": "15",
    "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20", "thirty": "30",
    "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
    "percent": "%", "plus": "+", "minus": "−", "equals": "=", "infinity": "∞",
}  # fmt: skip
"""Words for figures. `one` is missing: it is a pronoun more often than a number."""
_FUNCTIONS = frozenset(
    _WORD.findall(
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt det gcd lcm mod max min lim"
    )
)
_TELLING = _FUNCTIONS | frozenset(
    _WORD.findall(
        "hundred thousand million billion dozen half third quarter double triple twice thrice times multiply "
        "multiplied subtract divide divided factorial not no never cannot cant dont doesnt isnt without except "
        "neither most maximum less fewer smaller least smallest lowest minimum shortest youngest difference product "
        "quotient remainder square squares cube cubes reciprocal reciprocals area perimeter volume circumference "
        "diameter center median odd composite negative different distinguishable indistinguishable consecutive "
        "decrease decreases decreased last false descending tails girls pentagon hexagon heptagon octagon nonagon "
        "decagon"
    )
)
"""Words that turn a question into another one, so they count as figures do; most were met in MATH.

Of two opposites the rarer stands here: `fewer` alone tells `fewer` from `more`.
"""
_GREEK = frozenset(_WORD.findall("alpha beta gamma delta epsilon theta lambda mu pi rho sigma tau phi omega"))


END = "."
"""The token at the end of a sentence; in another notation of the text it may be missing."""


def is_figure(token: str) -> bool:
    """Whether a token of `tokens` decides the answer: a number, a sign, a symbol, a word that turns the question.

    A symbol is a single letter or a Greek one by its name; `a` and `i` are words.
    """
    if token[0].isalpha():
        return token in _TELLING or token in _GREEK or (len(token) == 1 and token.isascii() and token not in "ai")
    return token != END


def capitals(text: str) -> list[str]:
    """Names in capitals, `AB` and `RADII`, sorted; empty where the text has no mixture of cases to tell them by."""
    if _UPPER.search(text) and _LOWER.search(text):
        return ["", *sorted(_CAPITALS.findall(text))]
    return []


_UPPER, _LOWER = re.compile("[A-Z]"), re.compile(r"(?<!\\)\b[a-z]{2,}\b")
_CAPITALS = re.compile(r"(?<![A-Za-z\\])[A-Z]{2,}(?![a-z])")


def tokens(text: str) -> list[str]:
    r"""Words, numbers, signs and `END`s in order, one notation each: `Let $x\le\tfrac{1}{2}$.` -> let x ≤ 1 / 2 ."""
    text = text.translate(_CHARACTERS)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    text = text.lower()
    if "*" in text:
        text = _BOLD.sub(r"\1", _BULLET.sub("", text))
    if "```" in text:
        text = _FENCE.sub(_code, text)
    if "\\" in text or "{" in text:
        text = _tex(text)
    return [_NUMBERS.get(token) or _number(token) for token in _TOKEN.findall(_marks(text))]


def _number(token: str) -> str:
    """3.50 and 3.5 are one number, and so are 007 and 7. Every sentence ends alike."""
    if not token[0].isdecimal():
        return END if token in "?!" else token
    whole, _, part = token.partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


_CHARACTERS = str.maketrans(
    {
        "⁰": "^0", "¹": "^1", "²": "^2", "³": "^3", "⁴": "^4", "⁵": "^5", "⁶": "^6", "⁷": "^7", "⁸": "^8", "⁹": "^9",
        "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "⁄": "/", "∕": "/", "√": " sqrt ", "∣": "|",
        "−": "-", "–": "-", "‐": "-", "‑": "-", "—": " ", "°": " degrees ", "…": " ", "△": " triangle ",
        "’": "'", "‘": "'", "′": "'", "\u00ad": "", "\u200b": "", "\ufeff": "", "⟦": "(", "⟧": ")",
        "α": " alpha ", "β": " beta ", "γ": " gamma ", "δ": " delta ", "ε": " epsilon ", "θ": " theta ",
        "λ": " lambda ", "μ": " mu ", "π": " pi ", "ρ": " rho ", "σ": " sigma ", "τ": " tau ", "φ": " phi ",
        "ω": " omega ", "Δ": " delta ",
    }
)  # fmt: skip

_FENCE = re.compile(r"```([\w+#-]*)(.*?)(?:```|\Z)", re.DOTALL)
_HASH_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*", re.MULTILINE)
_SLASH_COMMENT = re.compile(r"//[^\n]*")
_SLASHED = frozenset(
    ["c", "cpp", "c++", "cs", "c#", "csharp", "java", "js", "javascript", "ts", "typescript", "go", "rust"]
)
_MINUS = "−"


def _code(fence: re.Match[str]) -> str:
    """Code without comments; every minus of it is a sign."""
    comment = _SLASH_COMMENT if fence[1] in _SLASHED else _HASH_COMMENT
    return " " + comment.sub("", fence[2]).replace("-", _MINUS) + " "


_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\w))\s*(?:\{([^{}]*)\}|(\w))")
_SQUARE_ROOT = re.compile(r"\\sqrt\s*\{([^{}]*)\}")
_POWER = re.compile(r"\^\s*\{([^{}]*)\}")
_DEEPEST = 5
"""Fractions, roots, powers and brackets read inside one another; deeper ones keep their notation."""
_BREAK = re.compile(r"\\\\(?:\[[^\]\n]{0,9}\])?")
_SILENT = re.compile(
    r"\\(?:(?:left|right|bigg?[lrm]?|displaystyle|textstyle|limits|text(?:bf|it|rm|tt|sf|normal)?|mathrm|mathbf|mathit"
    r"|mathsf|mbox|operatorname|boldsymbol|q?quad|phantom)(?![a-z])\*?|(?:begin|end)\s*\{[^{}]*\}"
    r"|[^a-z%])"
)
"""Commands that change how mathematics looks, not what it says."""
_COMMAND = re.compile(r"\\([a-z]+)")
_COMMANDS = {
    "le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "ne": "≠", "neq": "≠",
    "lt": "<", "gt": ">", "equiv": "≡", "approx": "≈", "pm": "±", "mp": "∓", "times": "*", "cdot": "*", "ast": "*",
    "div": "/", "over": "/", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "cup": "∪", "cap": "∩", "in": "∈",
    "notin": "∉", "subset": "⊂", "subseteq": "⊆", "infty": "∞", "sum": "∑", "prod": "∏", "int": "∫", "to": "→",
    "rightarrow": "→", "implies": "⇒", "angle": "∠", "perp": "⊥", "parallel": "∥", "lfloor": "⌊", "rfloor": "⌋",
    "lceil": "⌈", "rceil": "⌉", "prime": "′", "circ": "degrees", "degree": "degrees", "ldots": "", "dots": "",
    "cdots": "", "varepsilon": "epsilon", "varphi": "phi", "dbinom": "binom", "tbinom": "binom",
}  # fmt: skip


def _tex(text: str) -> str:
    """TeX in the plain notation; a command that has none becomes the word of its name."""
    text = text.replace("{,}", ",").replace("\\!", "").replace("^\\circ", " degrees ").replace("^{\\circ}", " degrees ")
    text = _SILENT.sub(" ", _BREAK.sub(" ", text))
    for _ in range(_DEEPEST):
        before = text
        text = _POWER.sub(r"^(\1)", _SQUARE_ROOT.sub(r" sqrt(\1)", text))
        text = _FRACTION.sub(lambda found: f"({found[1] or found[2]})/({found[3] or found[4]})", text)
        if text == before:
            break
    return _COMMAND.sub(lambda found: f" {_COMMANDS.get(found[1], found[1])} ", text)


_TWO_SIGNS = re.compile(r"<=|>=|!=|==|->|=>|\*\*(?=\s?[\w(])")
_ONE_SIGN = {"<=": "≤", ">=": "≥", "!=": "≠", "==": "=", "->": "→", "=>": "⇒", "**": "^"}
_BULLET = re.compile(r"^[ \t]*\*[ \t]+(?=[^\W\d_]{2})", re.MULTILINE)
_BOLD = re.compile(r"(?<![\w)*])\*{1,2}(?=[^\s*])([^*\n]+)(?<=\S)\*{1,2}(?![\w(*])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_BARE_POINT = re.compile(r"(?<![\w)])\.(?=\d)")
_DASH = re.compile(r"(?<![^\W\d_][^\W\d_])-(?=\s*(?:[\d(.]|[^\W\d_](?![^\W\d_])))(?!(?<=[^\W\d_][^\W\d_\"]\s-)\s+a\s)")
"""A dash before a number, a bracket or a symbol is a minus, but not the hyphen of `covid-19`, nor `dash - a dash`."""
_FACTORIAL = re.compile(r"(?<=[\w)])!(?=\s*[-+*/^=<>$)}])")
_DERIVATIVE = re.compile(r"(?<=\b[a-z])'(?=\s*[(=])")
_BRACKETS = re.compile(r"\(([^()]*)\)")
_OPERATOR = re.compile(f"[-+*/^=<>⟦{_MINUS}]")
_LONG_WORD = re.compile(r"[^\W\d_]{2,}")


def _marks(text: str) -> str:
    """Marks that are mathematics in one place and punctuation in another, each for what it is."""
    text = _TWO_SIGNS.sub(lambda found: _ONE_SIGN[found[0]], text)
    if "," in text:
        text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    text = _BARE_POINT.sub("0.", text)
    if "-" in text:
        text = _DASH.sub(_MINUS, text)
    if "!" in text:
        text = _FACTORIAL.sub(" factorial ", text)
    if "'" in text:
        text = _DERIVATIVE.sub("′", text).replace("'", "")
    if "(" in text or "{" in text:
        text = text.replace("{", "(").replace("}", ")")
        for _ in range(_DEEPEST):
            before, text = text, _BRACKETS.sub(_bracketed, text)
            if text == before:
                break
    return text


def _bracketed(found: re.Match[str]) -> str:
    """Brackets count around a formula of at least one operator: `(3 + 4) * 5`, but not `(in meters)` or `(5)`."""
    inside = found[1]
    formula = _OPERATOR.search(inside) and all(
        word in _FUNCTIONS or word in _GREEK for word in _LONG_WORD.findall(inside)
    )
    return f"⟦{inside}⟧" if formula else f" {inside} "
