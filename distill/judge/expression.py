r"""Expression: LaTeX or plain notation of one value, worked out exactly while it is read.

A recursive descent over tokens; `reading` adds lists, brackets, matrices and relations around
it. What it does not know (integrals, sums, prose) is `UnreadableError`.
"""

import re
from fractions import Fraction
from typing import NoReturn

from distill.judge.algebra import forms
from distill.judge.algebra.sums import DEGREE, EULER, IMAGINARY, PI, Value

DEEPEST = 40
"""Brackets within brackets."""

TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|\\.|[A-Za-z]+|\S)", re.DOTALL)
NUMBER = re.compile(r"\d*\.?\d+")
FUNCTIONS = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh", "log", "ln", "lg", "exp"]
)
INVERSES = {"sin": "asin", "cos": "acos", "tan": "atan"}
GREEK = frozenset(
    ["alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "nu", "rho", "sigma", "tau", "phi", "omega"]
)
CONSTANTS = {"pi": forms.atom(PI), "e": forms.atom(EULER), "i": forms.atom(IMAGINARY)}
RELATIONS = {"=": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\approx": "~", "\\in": "in"}
OPENING, CLOSING = ("(", "[", "\\{"), (")", "]", "\\}")
JOINING = frozenset([",", ";", "and", "or", "\\and", "\\or"])


class UnreadableError(Exception):
    """Not all of the text is mathematics that is known here."""


class Expressions:
    """One pass over the tokens of one text."""

    def __init__(self, text: str, sign: int) -> None:
        """`sign`: what `\\pm` stands for in this pass."""
        self.tokens: list[str] = TOKEN.findall(text)
        self.text, self.place, self.depth, self.sign = text, 0, 0, sign
        self.applied = 0
        """Functions around the place: only there is a degree a number, elsewhere it is a unit."""
        self.degrees = False
        """Whether a degree sign was met outside of a function."""
        self.split = False
        """Whether `\\pm` was met."""

    @property
    def next(self) -> str:
        """The token ahead, or nothing at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def fail(self) -> NoReturn:
        """Give up on the text."""
        raise UnreadableError(self.next)

    def _take(self, *expected: str) -> str:
        token = self.next
        if not token or (expected and token not in expected):
            self.fail()
        self.place += 1
        return token

    def _braces_text(self) -> str:
        self._take("{")
        name = self._take()
        self._take("}")
        return name

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail()

    def value(self) -> Value:
        """Terms joined by signs."""
        self._deeper()
        total = self._term()
        while self.next in ("+", "-", "\\pm", "\\mp"):
            total = forms.add(total, self._term())
        self.depth -= 1
        return total

    def _sign(self) -> int:
        sign = 1
        while self.next in ("+", "-", "\\pm", "\\mp"):
            token = self._take()
            if token in ("\\pm", "\\mp"):
                self.split = True
                sign *= self.sign if token == "\\pm" else -self.sign
            elif token == "-":
                sign = -sign
        return sign

    def _term(self) -> Value:
        """Factors side by side, or joined by a product sign or a slash."""
        sign = self._sign()
        product = self._factor()
        while True:
            if self.next in ("\\cdot", "*", "/", "\\div"):
                divided = self._take() not in ("\\cdot", "*")
                factor = self._factor() if self.next not in ("+", "-") else self._signed_factor()
                product = forms.divide(product, factor) if divided else forms.multiply(product, factor)
            elif self._starts_factor():
                product = forms.multiply(product, self._factor())
            else:
                return forms.negative(product) if sign == -1 else product

    def _signed_factor(self) -> Value:
        sign = self._sign()
        factor = self._factor()
        return forms.negative(factor) if sign == -1 else factor

    def _starts_factor(self) -> bool:
        token = self.next
        if not token or token in JOINING or token in RELATIONS or token in CLOSING:
            return False
        if NUMBER.fullmatch(token):
            return self.tokens[self.place - 1] in (")", "}", "]", "!") or self.fail()
        return (
            token[0].isalpha()
            or token in ("(", "[", "{")
            or (
                token[0] == "\\"
                and token[1:].isalpha()
                and (
                    token
                    not in (
                        "\\cup",
                        "\\setminus",
                        "\\backslash",
                        "\\end",
                        "\\pm",
                        "\\mp",
                        "\\vert",
                        "\\rfloor",
                        "\\rceil",
                    )
                )
            )
        )

    def _factor(self) -> Value:
        """A base with its exponent, factorial, degree or percent sign."""
        mixed = self._mixed()
        if mixed is not None:
            return mixed
        base = self._base()
        while True:
            if self.next == "^":
                self._take()
                base = forms.power(base, self._exponent())
            elif self.next == "!":
                self._take()
                base = forms.factorial(base)
            elif self.next == "°":
                self._take()
                self.degrees = self.degrees or not self.applied
                base = forms.multiply(base, forms.atom(DEGREE)) if self.applied else base
            elif self.next == "%":
                self._take()
                base = forms.divide(base, forms.rational(100))
            else:
                return base

    def _mixed(self) -> Value | None:
        """A whole number with a fraction less than one written behind it: 1 1/2, as a mixed number."""
        ahead = self.tokens[self.place : self.place + 8]
        if len(ahead) < 8 or ahead[1:3] != ["\\frac", "{"] or (ahead[4], ahead[5], ahead[7]) != ("}", "{", "}"):
            return None
        whole, top, bottom = ahead[0], ahead[3], ahead[6]
        if not (whole.isdecimal() and top.isdecimal() and bottom.isdecimal()) or int(top) >= int(bottom):
            return None
        self.place += 8
        return forms.rational(int(whole) + Fraction(int(top), int(bottom)))

    def _exponent(self) -> Value:
        if self.next in ("-", "+"):
            return self._signed_factor()
        base = self._base()
        if self.next != "^":
            return base
        self._take()  # a tower is worked out from above
        return forms.power(base, self._exponent())

    def _base(self) -> Value:
        token = self._take()
        if NUMBER.fullmatch(token):
            return forms.rational(Fraction(token))
        if token in ("(", "[", "{"):
            inside = self.value()
            self._take({"(": ")", "[": "]", "{": "}"}[token])
            return inside
        if token in ("|", "\\vert"):
            inside = self.value()
            self._take(token)
            return forms.function("abs", inside)
        name = token.removeprefix("\\")
        if token in ("\\lfloor", "\\lceil"):
            inside = self.value()
            self._take("\\r" + token[2:])
            return forms.function({"\\lfloor": "floor", "\\lceil": "ceil"}[token], inside)
        if token == "\\frac":
            return forms.divide(self._argument(), self._argument())
        if token == "\\binom":
            return forms.binomial(self._argument(), self._argument())
        if name == "sqrt":
            return self._root()
        if name in FUNCTIONS:
            return self._function(name)
        if name == "pi":
            return CONSTANTS["pi"]
        if self._calls(name):
            inside = self._base()
            return forms.function(f"call {name}", inside)
        return self._unknown(token)

    def _calls(self, name: str) -> bool:
        """Whether a letter is a function's name: f and g before any bracket, some others before x, n or a number."""
        if self.next != "(":
            return False
        inside = self.tokens[self.place + 1 : self.place + 3]
        plain = len(inside) == 2 and inside[1] == ")" and (inside[0] in ("x", "t", "n") or inside[0].isdecimal())
        return name in ("f", "g") or (name in ("h", "p", "q", "F", "G", "P", "Q") and plain)

    def _argument(self) -> Value:
        """What a command takes: braces, or one sign."""
        if self.next.isdecimal() and len(self.next) > 1:
            self.fail()
        return self._base()

    def _root(self) -> Value:
        index = 2
        if self.next == "[":
            self._take()
            token = self._take()
            if not token.isdecimal() or int(token) < 2:
                self.fail()
            index = int(token)
            self._take("]")
        return forms.root(self._base(), index)

    def _function(self, name: str) -> Value:
        exponent, base = None, None
        if self.next == "_" and name == "log":
            self._take()
            base = self._base()
        if self.next == "^":
            self._take()
            exponent = self._exponent()
            if exponent.rational == -1 and name in INVERSES:
                name, exponent = INVERSES[name], None
        self.applied += 1
        argument = self._base() if self.next in ("(", "{", "[", "|") else self._arguments()
        self.applied -= 1
        result = self._applied(name, argument, base)
        return forms.power(result, exponent) if exponent is not None else result

    def _applied(self, name: str, argument: Value, base: Value | None) -> Value:
        if name == "exp":
            return forms.power(CONSTANTS["e"], argument)
        if name == "log":  # without a base it is 10 to some and e to others
            if base is None:
                return forms.function("log?", argument)
            return forms.divide(forms.function("log", argument), forms.function("log", base))
        if name == "lg":
            return forms.divide(forms.function("log", argument), forms.function("log", forms.rational(10)))
        return forms.function("log" if name == "ln" else name, argument)

    def _arguments(self) -> Value:
        """Factors up to the next sign or function: sin 3x is sin(3x)."""
        product = self._factor()
        while self._starts_factor() and self.next.removeprefix("\\") not in FUNCTIONS and self.next not in ("(", "["):
            product = forms.multiply(product, self._factor())
        return product

    def _unknown(self, token: str) -> Value:
        """A letter, a Greek name, or letters written together as a product."""
        name = token.removeprefix("\\")
        if token[0] == "\\":
            return forms.variable(self._indexed(name)) if name in GREEK else self._overlined(name)
        if not name.isalpha() or not name.isascii() or len(name) > 3:
            self.fail()
        product = forms.rational(1)
        for place, letter in enumerate(name):
            last = place == len(name) - 1
            indexed = self._indexed(letter) if last else letter
            one = CONSTANTS.get(indexed) or forms.variable(indexed)
            if last and self.next == "^":
                self._take()
                one = forms.power(one, self._exponent())
            product = forms.multiply(product, one)
        return product

    def _overlined(self, name: str) -> Value:
        if name not in ("overline", "angle", "triangle", "vec", "hat"):
            self.fail()
        letters = self._braces_text() if self.next == "{" else self._take()
        return forms.variable(f"{name} {letters}") if letters.isalpha() else self.fail()

    def _indexed(self, name: str) -> str:
        """The name with its index: x_1, a_{n}."""
        if self.next != "_":
            return name
        self._take()
        if self.next != "{":
            return f"{name}_{self._take()}"
        index = self._braces_text()
        return f"{name}_{index}"
