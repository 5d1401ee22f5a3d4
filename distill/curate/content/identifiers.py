"""Identifiers: national numbers of persons, found by their words and believed by their checksums.

The checksums and the rules of dates and regions are python-stdnum's (LGPL, imported, nothing copied). One that stands
alone has letters, punctuation or two check digits, so that a number of mathematics fits it by chance less than once in
10,000; every other one is looked for behind its own name only.
What is not covered: countries without a row, and ids without a checksum but the American SSN, which is asked for by
name and by the areas and groups that are never given out.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

BEHIND = 40
"""Characters behind its name in which a number is looked for."""

ALONE: dict[str, str] = {
    "it.codicefiscale": r"[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]",
    "mx.curp": r"[A-Z]{4}\d{6}[A-Z]{6}[\dA-Z]\d",
    "br.cpf": r"\d{3}\.\d{3}\.\d{3}-\d{2}",
    "ch.ssn": r"756\.\d{4}\.\d{4}\.\d{2}",
    "cn.ric": r"[1-9]\d{5}(?:19|20)\d{9}[\dXx]",
}
"""By module of python-stdnum."""

NAMED: dict[str, str] = {
    "us.ssn": r"SSN|[Ss]ocial [Ss]ecurity",
    "gb.nhs": r"NHS",
    "ca.sin": r"SIN|[Ss]ocial [Ii]nsurance",
    "au.tfn": r"TFN|[Tt]ax [Ff]ile",
    "de.idnr": r"IdNr|Steuer-?(?:ID|Id)|Identifikationsnummer",
    "fr.nir": r"NIR|[Ss]écurité [Ss]ociale",
    "es.dni": r"DNI|NIF",
    "es.nie": r"NIE",
    "nl.bsn": r"BSN|[Bb]urgerservicenummer",
    "be.nn": r"[Rr]ijksregister|[Rr]egistre [Nn]ational",
    "pl.pesel": r"PESEL",
    "se.personnummer": r"[Pp]ersonnummer",
    "no.fodselsnummer": r"[Ff]ødselsnummer",
    "dk.cpr": r"CPR",
    "fi.hetu": r"[Hh]etu|HETU|[Hh]enkilötunnus",
    "cz.rc": r"[Rr]odné [Čč]íslo",
    "ro.cnp": r"CNP",
    "hr.oib": r"OIB",
    "tr.tckimlik": r"TCKN|[Kk]imlik",
    "br.cpf": r"CPF",
    "cl.rut": r"RUT",
    "in_.aadhaar": r"[Aa]adhaar|UIDAI",
    "cn.ric": r"身份证|身份證",
    "kr.rrn": r"주민등록번호",
    "za.idnr": r"South African ID",
}
"""Names of the number, by module."""

MADE_UP = ("123-45-6789", "078-05-1120", "219-09-9999")
"""What people write when they mean any SSN; the other two were printed on sample cards."""
INITIALS = "A-DFHIKNOPRSTUabfhkprst身주"
"""What names begin with. A look ahead at one character changes no match and takes an eighth of the time."""
STANDING = re.compile(rf"(?=[A-Z\d])(?<![\w.-])(?:{'|'.join(ALONE.values())})(?![\w-])")
NAMES = re.compile(
    rf"(?=[{INITIALS}])(?<![^\W_])(?:"
    + "|".join(rf"(?P<n{place}>{names})" for place, names in enumerate(NAMED.values()))
    + ")"
)
NUMBER = re.compile(r"(?<![\w.-])[\dXYZ][\d ./-]{5,20}[\dA-Za-z](?![^\W_])")


def identifiers(text: str) -> Iterator[str]:
    """National numbers of persons, as they stand in the text."""
    for found in STANDING.finditer(text):
        if any(_valid(module, found.group()) for module in ALONE):
            yield found.group()
    modules = list(NAMED)
    for name in NAMES.finditer(text):
        number = NUMBER.search(text, name.end(), name.end() + BEHIND)
        module = modules[int((name.lastgroup or "")[1:])]
        if number and _valid(module, number.group()) and not STANDING.fullmatch(number.group()):
            yield number.group()


def _valid(module: str, number: str) -> bool:
    if number in MADE_UP:
        return False
    checker: Any = import_module(f"stdnum.{module}")
    return bool(checker.is_valid(number))
