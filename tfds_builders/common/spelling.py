"""Spellings that look alike: for names of patients and lesions, for labels, and for names of files.

One name is often written in several ways: `P-1` and `p-1`; `7`, `007` and pandas' `7.0`; a letter with its accent as
one character or as two; with a no-break, double or zero-width space. Read as they are, they are two patients, who may
be in training and in test, or two classes.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

# Without width and without meaning. (The joiners U+200C and U+200D are part of how some languages are written.)
INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
# What pandas makes of whole numbers once a cell of the column is blank, also with a comma for the point.
WHOLE = re.compile(r"([+-]?)0*(\d+)(?:[.,]0+)?")
MINUS = "\u2212"
NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?")


def fold(text: str) -> str:
    """A key that is equal for spellings that look alike.

    It passes over Unicode forms (NFKC), letter case, kinds and numbers of spaces, characters without width, kinds of
    dashes and, if the text is a whole number, zeros before it and a decimal part of zeros.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = "".join(map(_fold_character, text))
    text = " ".join(text.lower().split())
    number = WHOLE.fullmatch(text)
    if number is None:
        return text
    sign, digits = number.groups()
    return ("-" if sign == "-" and digits != "0" else "") + "".join(str(unicodedata.digit(c)) for c in digits)


def _fold_character(character: str) -> str:
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return "-" if category == "Pd" or character == MINUS else character


def plain(text: str) -> str:
    """The text in Unicode's form NFC, without `INVISIBLE` characters and without spaces around it."""
    if text.isascii():
        return text.strip()
    return INVISIBLE.sub("", unicodedata.normalize("NFC", text)).strip()


def tidy(text: str) -> str:
    """`plain`, with a single plain space where there are several or others."""
    return " ".join(plain(text).split())


def tidy_column(values: Iterable[str]) -> dict[str, str]:
    """What each value of a column of names is stored as: tidy, and whole numbers without pandas' `.0`.

    A column that has other decimal fractions too keeps its `.0`.
    """
    tidied = {value: tidy(value) for value in values}
    numbers = [text for text in tidied.values() if NUMBER.fullmatch(text)]
    if not all(WHOLE.fullmatch(text) for text in numbers):
        return tidied
    return {value: re.sub(r"[.,]0+$", "", text) if WHOLE.fullmatch(text) else text for value, text in tidied.items()}


def find_alike(places: Iterable[tuple[str, int]]) -> list[dict[str, int]]:
    """Names that look alike: for each of them every spelling, in order, with the first line that has it.

    Args:
      places: (spelling, line); blank ones do not count.
    """
    found: dict[str, dict[str, int]] = {}
    for spelling, line in places:
        if spelling:
            found.setdefault(fold(spelling), {}).setdefault(spelling, line)
    return [spellings for spellings in found.values() if len(spellings) > 1]


def describe_alike(spellings: Mapping[str, int]) -> str:
    """`'7' (line 4) and '7.0' (line 5)`; what cannot be seen is shown by its code."""
    return " and ".join(f"{show(spelling)} (line {line})" for spelling, line in spellings.items())


def show(text: str) -> str:
    """The text in quotation marks; where it looks like another one, with its odd characters by their codes."""
    usual = unicodedata.normalize("NFKC", text) == text and INVISIBLE.sub("", text) == text
    return "'" + "".join(c if c.isprintable() and (usual or c.isascii()) else _code(c) for c in text) + "'"


def _code(character: str) -> str:
    return character.encode("unicode_escape").decode()


def spelled_like(name: str, there: Iterable[str]) -> list[str]:
    """Those of the names `there` that look like `name`, in order."""
    key = fold(name)
    return sorted(other for other in there if other != name and fold(other) == key)


def as_number(text: str) -> Decimal | None:
    """The number that a text is, with point or comma; None if it is none."""
    return Decimal(text.replace(",", ".")) if NUMBER.fullmatch(text) else None


def sort_names(names: Iterable[str]) -> list[str]:
    """The names in order: of their numbers if all are numbers, else of the alphabet."""
    names = list(names)
    numbers: Sequence[Decimal | None] = [as_number(name) for name in names]
    if None in numbers:
        return sorted(names)
    return [name for _, name in sorted(zip(numbers, names, strict=True))]
