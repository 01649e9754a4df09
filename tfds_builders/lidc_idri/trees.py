"""XML files as trees: refused if they could do harm, and read fast, since a collection has six million elements."""

import contextlib
import gc
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from xml.parsers import expat

from tfds_builders.common.damage import DamagedInput


def read_tree(data: bytes) -> tuple[ET.Element, str]:
    """The root of a file, the tags below it without their namespace, and the root's own tag without it.

    Raises DamagedInput if it is not well formed or declares a document type.
    """
    try:
        refuse_doctype(data)
        root = ET.fromstring(data)
    except (ET.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, DamagedInput):
            raise
        raise DamagedInput(f"not well-formed XML ({error}): download it again") from error
    namespace, _, kind = root.tag.rpartition("}")
    for item in root.iter() if namespace else ():
        item.tag = item.tag.removeprefix(f"{namespace}}}")
    return root, kind


class _Root(Exception):
    """The prolog of a file ends here."""


def refuse_doctype(data: bytes) -> None:
    """DamagedInput for a file with a document type, which can name other files, or entities that expand without end.

    A pass of its own over the prolog: a hook in the parse itself would take ElementTree's fast path from every file.
    """

    def refuse(*_: object) -> None:
        raise DamagedInput("has a document type declaration (DOCTYPE), which no LIDC file has: not an official file")

    def root(*_: object) -> None:
        raise _Root

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler, parser.StartElementHandler = refuse, root
    with contextlib.suppress(_Root):
        parser.Parse(data, True)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector: it would go over the millions of objects of XML trees, none of which is garbage
    before its tree is, for as long as parsing takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def text(item: ET.Element | None, name: str, default: str = "") -> str:
    found = "" if item is None else (item.findtext(name) or "").strip()
    if not found and not default:
        raise DamagedInput(f"{'the file' if item is None else item.tag} has no {name}")
    return found or default


def number(value: str) -> float:
    """NaN for what is no number."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def whole(item: ET.Element, name: str, default: str = "") -> int:
    value = text(item, name, default)
    try:
        return int(value)
    except ValueError as error:
        raise DamagedInput(f"{name} is {value!r}, not a whole number") from error
