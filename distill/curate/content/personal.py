"""Personal: addresses, numbers and secrets that belong to somebody.

Finds e-mail addresses, telephone numbers, payment cards (Luhn), IBANs (mod 97 and the country's layout), national
numbers (`identifiers`), public IP addresses, and keys of services. Training text of mathematics is full of numbers, so
each finder asks for a checksum, a layout or a word beside the number; counts on real traces are in docs/curate.md. What
is said to everybody is nobody's: role addresses (info@), example domains, toll-free and fictional numbers, published
test cards. A finding shows the first two characters and no more, so that histories hold no personal data.
Linear: every repetition is bounded. What is not covered: names, postal addresses, birth dates, user names, numbers
spelled in words, telephone numbers without country code, American layout or a word for them.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field

from distill.curate.content.finding import Finding, Text
from distill.curate.content.identifiers import identifiers
from distill.recipe import StageConfig

Kind = Literal["email", "phone", "card", "iban", "national-id", "ip-address", "key"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class PersonalConfig(StageConfig):
    """What counts as personal, and how much of it a text may hold."""

    kinds: tuple[Kind, ...] = KINDS
    """Kinds looked for, in this order."""
    most: int = Field(default=0, ge=0)
    """Findings of one kind that a prompt and its completion may hold together."""


@dataclass(frozen=True, slots=True)
class Personal:
    """Drops texts with somebody's data in prompt or completion."""

    config: PersonalConfig
    name: str = "personal"

    def look(self, text: Text) -> Finding | None:
        """`personal-email`, `personal-phone`, ...; the value is how many."""
        for kind in self.config.kinds:
            found = [item for part in (text.problem.prompt, text.whole) for item in FINDERS[kind](part)]
            if len(found) > self.config.most:
                shown = f"{found[0][:2].encode('ascii', 'replace').decode()}... ({len(found[0])} characters)"
                return Finding(f"personal-{kind}", len(found), self.config.most, f"{len(found)} {kind}, first {shown}")
        return None


EMAIL = re.compile(
    r"(?<![\w.+/-])(?P<local>[A-Za-z0-9][\w.+-]{0,63})@(?P<domain>(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24})\b",
    re.ASCII,
)
NOBODY = re.compile(
    r"(?:info|support|contact|help|helpdesk|admin|office|sales|press|media|abuse|spam|phishing|report\w*|security|privacy"
    r"|legal|service|hello|mail|webmaster|postmaster|no-?reply|team|hr|jobs|careers|billing|customer\w*|user\w*|your\w*"
    r"|name|email|someone|example\w*|first\.?last|john\.?doe|jane\.?doe|test\w*)",
    re.IGNORECASE,
)
EXAMPLES = re.compile(
    r"(?:.*\.)?(?:example|test|invalid|localhost|yourdomain|yourcompany|domain|company|email)(?:\.[a-z]{2,6})?", re.I
)
"""Domains kept for examples (RFC 2606), and those people write for them."""


def emails(text: str) -> Iterator[str]:
    """Addresses of single persons."""
    if "@" in text:
        for found in EMAIL.finditer(text):
            if not (NOBODY.fullmatch(found["local"]) or EXAMPLES.fullmatch(found["domain"])):
                yield found.group()


AMERICAN = re.compile(
    r"(?<![\w.+*/=-])(?:\+?1[ .-])?(?:\((?P<a>\d{3})\) ?|(?P<b>\d{3})[.-])\d{3}[.-]\d{4}(?![\w-]|\.\d)"
)
ABROAD = re.compile(r"(?<![\w)\]}])\+[1-9]\d{0,2}(?:[ .-]\(?\d{1,8}\)?){2,6}(?![\w-]|\.\d)")
SPOKEN = re.compile(
    r"(?:\b(?:tel|phone|telephone|mobile|cell|fax|whatsapp|telefon|téléphone|teléfono)\b|телефон|电话|手机|電話|전화)"
    r"(?: ?(?:number|no\.?|is|me at|at|号码|番号)){0,3}[ :：=]{0,3}"
    r"(?P<number>\+?\(?\d(?:[ .()-]{0,2}\d){7,14})(?![\w-]|[.,]\d)",
    re.IGNORECASE,
)
TERM = re.compile(r"(?:[\d)\]}$=]|(?<![^\W\d_])[^\W\d_])\s?$")
"""What a sum has before its plus: a number, something in brackets, a variable."""
FOR_ALL = ("800", "822", "833", "844", "855", "866", "877", "888", "900")
"""Area codes of the American plan that nobody owns: toll-free and premium."""


def phones(text: str) -> Iterator[str]:
    """Telephone numbers that could ring at somebody's."""
    for found in AMERICAN.finditer(text):
        digits = _digits(found.group())[-10:]
        if _rings(digits):
            yield found.group()
    for found in ABROAD.finditer(text):
        digits = _digits(found.group())
        added = TERM.search(text, max(0, found.start() - 3), found.start())
        if 9 <= len(digits) <= 15 and not added and digits[0] != "1":  # American numbers are counted above
            yield found.group()
    for found in SPOKEN.finditer(text):
        number = found["number"]
        digits = _digits(number)
        american = len(digits) == 10 or (len(digits) == 11 and digits[0] == "1")
        if not AMERICAN.search(number) and not ABROAD.search(number) and (_rings(digits[-10:]) if american else True):
            yield number


def _rings(digits: str) -> bool:
    """Ten digits that the American plan gives out: no toll-free, fictional (555-01xx) or impossible ones."""
    area, exchange = digits[:3], digits[3:6]
    given = area[0] in "23456789" and exchange[0] in "23456789" and area[1:] != "11" and exchange[1:] != "11"
    return given and area not in FOR_ALL and "555" not in (area, exchange) and len(set(digits)) > 2


GROUPED = re.compile(
    r"(?<![\w.-])\d{4}(?P<gap>[ -])(?:\d{4}(?P=gap)\d{4}(?P=gap)\d{4}|\d{6}(?P=gap)\d{5})(?![\w-]|[.,]\d)"
)
SOLID = re.compile(
    r"\b(?:card|visa|mastercard|amex|credit|debit)\b[^\d\n]{0,40}(?P<number>\d{15,16})(?!\w)", re.IGNORECASE
)
ISSUED = re.compile(r"4\d{15}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35\d{14}")
PUBLISHED = (
    *("4111111111111111", "4242424242424242", "4012888888881881", "5555555555554444", "5105105105105100"),
    *("378282246310005", "371449635398431", "6011111111111117", "3530111333300000", "4000056655665556"),
)
"""Numbers that payment services print for tests."""


def cards(text: str) -> Iterator[str]:
    """Numbers of payment cards."""
    from stdnum import luhn

    candidates = [found.group() for found in GROUPED.finditer(text)]
    candidates += [found["number"] for found in SOLID.finditer(text)]
    for number in candidates:
        digits = _digits(number)
        if ISSUED.fullmatch(digits) and digits not in PUBLISHED and len(set(digits)) > 2 and luhn.is_valid(digits):
            yield number


IBAN = re.compile(r"(?<![\w-])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![\w-])")


def ibans(text: str) -> Iterator[str]:
    """Bank accounts."""
    from stdnum import iban

    for found in IBAN.finditer(text):
        if iban.is_valid(found.group()):
            yield found.group()


DOTTED = re.compile(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
COLONS = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::{1,2}[0-9A-Fa-f]{1,4}){2,7}(?::{2})?(?![\w:])")
VERSION = re.compile(r"(?:v|version|release|section|build|§)\W{0,3}$", re.IGNORECASE)
NAME_SERVERS = ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9")


def addresses(text: str) -> Iterator[str]:
    """IP addresses of the open network; versions, sections and private ranges are none."""
    for pattern in (DOTTED, COLONS):
        for found in pattern.finditer(text):
            number = found.group()
            parts = number.split(".")
            if len(parts) == 4 and sum(len(part) > 1 for part in parts) < 2:
                continue
            if number in NAME_SERVERS or VERSION.search(text, max(0, found.start() - 12), found.start()):
                continue
            if _public(number):
                yield number


def _public(number: str) -> bool:
    try:
        return ipaddress.ip_address(number).is_global
    except ValueError:
        return False


KEY = re.compile(
    r"(?<![\w-])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"  # Amazon
    r"|gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{50,100}"
    r"|glpat-[0-9A-Za-z_-]{20}"
    r"|sk-(?:proj-|ant-|svcacct-)?[0-9A-Za-z_-]{32,200}"  # OpenAI, Anthropic
    r"|hf_[0-9A-Za-z]{34}"
    r"|AIza[0-9A-Za-z_-]{35}"  # Google
    r"|xox[abprs]-[0-9A-Za-z-]{20,100}"  # Slack
    r"|[sr]k_live_[0-9A-Za-z]{16,100}"  # Stripe
    r"|npm_[0-9A-Za-z]{36}|pypi-AgE[0-9A-Za-z_-]{50,250}"
    r"|eyJ[0-9A-Za-z_-]{10,500}\.eyJ[0-9A-Za-z_-]{10,2000}\.[0-9A-Za-z_-]{20,500}"  # signed web tokens
    r")(?![0-9A-Za-z])"
    r"|-----BEGIN (?:[A-Z]{1,12} ){0,2}PRIVATE KEY-----\s{0,4}[0-9A-Za-z+/=\s]{40}"
)
PLACEHOLDER = re.compile(r"EXAMPLE|XXXX|xxxx|0000|1234567|abcdef|your", re.IGNORECASE)


def keys(text: str) -> Iterator[str]:
    """Keys of services and private keys; what says it is a placeholder is none."""
    for found in KEY.finditer(text):
        if found.group().startswith("-----") or not PLACEHOLDER.search(found.group()):
            yield found.group()


def _digits(text: str) -> str:
    return "".join(mark for mark in text if mark in "0123456789")


FINDERS: Mapping[Kind, Callable[[str], Iterator[str]]] = {
    "email": emails,
    "phone": phones,
    "card": cards,
    "iban": ibans,
    "national-id": identifiers,
    "ip-address": addresses,
    "key": keys,
}
