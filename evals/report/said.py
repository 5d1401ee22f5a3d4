"""Said: what a model wrote as HTML - formulas set, code colored, all else to the letter.

Formulas stand between `$`, `$$`, `\\(` or `\\[`, in an environment of amsmath, or are a lone `\\boxed{}`. A single
dollar opens one by pandoc's rule (no space after it, none before the closing one, no digit behind that) where
what it holds does not read as words or half a sum, so that prices stay prices. Fenced blocks are code; so is a
whole text whose problem asks for a program. Coloring is Pygments', cut down to the few kinds a style sheet needs.
`**bold**` and `` `code` `` are the only Markdown read.
Everything is hostile: no character reaches the page but through `text`.
"""

import re
from functools import lru_cache

from pygments import lex
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Token, _TokenType
from pygments.util import ClassNotFound

from evals.report.drawing import text
from evals.report.formulas import formula

_ENVIRONMENTS = "align|gather|equation|multline|aligned|cases|array|[pbvBV]?matrix"
_PIECES = re.compile(
    r"(?P<fence>^[ \t]*```[ \t]*(?P<language>[\w+#.-]*)[^\n]*\n(?P<code>.*?)(?:^[ \t]*```[ \t]*$|\Z))"
    r"|(?P<tick>`(?P<ticked>[^`\n]{1,300})`)"
    r"|(?P<display>\$\$(?P<in_dollars>[^$]{1,3000}?)\$\$|\\\[(?P<in_brackets>.{1,3000}?)\\\]"
    rf"|(?P<environment>\\begin\{{(?P<kind>(?:{_ENVIRONMENTS})\*?)\}}.{{1,3000}}?\\end\{{(?P=kind)\}}))"
    r"|(?P<inline>\\\((?P<in_parens>.{1,1500}?)\\\)|(?<![\\$\w])\$(?P<in_dollar>(?![\s$])[^$\n]{1,600}?(?<![\s\\]))\$(?!\d))"
    r"|(?P<box>\\boxed\{(?:[^{}\n]|\{(?:[^{}\n]|\{[^{}\n]*\})*\}){0,400}\})"
    r"|(?P<bold>(?<![\w*])\*\*(?P<bolded>(?!\s)[^*\n]{1,300}(?<!\s))\*\*(?![\w*]))",
    re.DOTALL | re.MULTILINE,
)
_MARKS = re.compile(r"[\\^_{]")
"""Only TeX has these."""
_WORD = re.compile(r"[A-Za-z]{2}")
_KINDS: tuple[tuple[_TokenType, str], ...] = (
    (Token.Comment, "rem"),
    (Token.Literal.String, "str"),
    (Token.Literal.Number, "num"),
    (Token.Keyword, "key"),
    (Token.Operator.Word, "key"),
    (Token.Name.Function, "def"),
    (Token.Name.Class, "def"),
    (Token.Name.Builtin, "own"),
)
"""Kinds of token that get a color, and the class that gives it."""


def said(words: str) -> str:
    """Text of a model as HTML, spaces and line ends kept by the style sheet (`.said`)."""
    parts: list[str] = []
    done = 0
    after_block = False
    for found in _PIECES.finditer(words):
        block = bool(found["fence"] or found["display"])
        parts.append(_between(words[done : found.start()], after_block, block))
        parts.append(_piece(found))
        done, after_block = found.end(), block
    return "".join(parts) + _between(words[done:], after_block, False)


def answer(words: str) -> str:
    """A final answer, which is often TeX without any dollars around it."""
    made = formula(words, block=False) if _MARKS.search(words) else None
    return said(words) if made is None else made


def program(source: str, language: str = "python") -> str:
    """Source code as HTML, its tokens colored; a language nobody knows stays plain."""
    lexer = _lexer(language.lower())
    if lexer is None:
        return text(source)
    parts: list[str] = []
    run, kind = "", ""
    for token, value in lex(source, lexer):
        its = _class_of(token)
        if its != kind and value.strip():
            parts.append(_colored(run, kind))
            run, kind = "", its
        run += value
    return "".join(parts) + _colored(run, kind)


def _between(words: str, after_block: bool, before_block: bool) -> str:
    """Text as it is; empty lines beside a block are the block's own margins."""
    words = words.lstrip("\n") if after_block else words
    return text(words.rstrip("\n") if before_block else words)


def _piece(found: re.Match[str]) -> str:
    if found["fence"]:
        return f'<code class="block">{program(found["code"].rstrip(), found["language"] or "python")}</code>'
    if found["tick"]:
        return f"<code>{text(found['ticked'])}</code>"
    if found["bold"]:
        return f"<strong>{said(found['bolded'])}</strong>"
    inline = found["in_dollar"]
    if inline and not _MARKS.search(inline) and (_WORD.search(inline) or inline[-1] in "=+-*/<(,"):
        return f"${said(inline)}$"
    if found["display"]:
        made = formula((found["in_dollars"] or found["in_brackets"] or found["environment"]).strip(), block=True)
    else:
        made = formula((found["in_parens"] or found["in_dollar"] or found["box"]).strip(), block=False)
    return text(found[0]) if made is None else made


def _colored(run: str, kind: str) -> str:
    return f'<span class="{kind}">{text(run)}</span>' if kind else text(run)


@lru_cache
def _class_of(token: _TokenType) -> str:
    return next((name for kind, name in _KINDS if token in kind), "")


@lru_cache
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
