"""Markdown tables, and front matter as YAML."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def write_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; nothing if it has no rows."""
    if not rows:
        return []
    return [_write_row(head), _write_row(["---"] * len(head)), *map(_write_row, rows), ""]


def _write_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape, cells))} |"


def escape(text: str) -> str:
    """A text of data, such as the name of a class, as it is read in Markdown: without tags, and on one line."""
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(sign, written)
    return text


def write_yaml(value: Mapping[str, Any] | Sequence[Any], indent: int = 0) -> Iterator[str]:
    """Lines of YAML: maps and lists in blocks, everything else as JSON writes it, which YAML reads."""
    pairs = value.items() if isinstance(value, Mapping) else (("-", one) for one in value)
    for name, one in pairs:
        start = " " * indent + (name if name == "-" else f"{name}:")
        if not isinstance(one, Mapping | list | tuple):
            yield f"{start} {json.dumps(one, ensure_ascii=False)}"
        elif name == "-":
            first, *rest = write_yaml(one, indent + 2)
            yield f"{start} {first.lstrip()}"
            yield from rest
        else:
            yield start
            yield from write_yaml(one, indent + 2)
