"""Fields of a config by their paths: 'stages[0].optimizer.learning_rate', or of all stages 'stages[*].batch_size'."""

import re
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from aiseeme_jax.errors import UserError

# A name, or a place in a tuple: 'stages', '[0]', '[*]'.
PART = re.compile(r"([^.\[\]]+)|\[(\d+|\*)\]")
EVERY = "*"

Part = str | int


def split_path(path: str) -> list[Part]:
    """The parts of a path: names, and numbers or EVERY for places. Raises UserError for what is no path."""
    parts: list[Part] = []
    for word in path.split("."):
        found = list(PART.finditer(word))
        if "".join(match[0] for match in found) != word or not found or found[0][1] is None:
            raise UserError(f"'{path}' is no field: write it as in stages[0].optimizer.learning_rate or stages[*].seed")
        for match in found:
            parts.append(match[1] if match[1] is not None else EVERY if match[2] == EVERY else int(match[2]))
    return parts


def find_missing(config: Any, parts: list[Part]) -> str | None:
    """Says which part of the path to a field does not exist; None if the field exists. Of EVERY the first is taken."""
    at = "config"
    for part in parts:
        listed = isinstance(config, tuple | list)
        if part == EVERY:
            if not listed and not isinstance(config, ConfigDict):
                return f"{at} has no entries: there is no {at}[*]"
            if not len(config):
                return f"{at} is empty: there is no {at}[*]"
            at, part = f"{at}[*]", next(iter(range(len(config)) if listed else config))
        elif isinstance(part, int):
            if not listed or part >= len(config):
                return f"{at} has {len(config) if listed else 'no'} entries: there is no {at}[{part}]"
            at += f"[{part}]"
        else:
            known = sorted(config) if isinstance(config, ConfigDict) else []
            if listed:
                return f"{at} is a list of {len(config)}: its entries are {at}[0] and so on"
            if part not in known:
                return f"unknown field '{part}' of {at}: known are {', '.join(known) or 'none'}"
            at += f".{part}"
        config = config[part]
    return None


def set_field(config: ConfigDict, path: str, value: Any) -> None:
    """Gives a field, or with [*] that of every entry, another value.

    Raises UserError if there is no such field, or if the value has another type than the field.
    """
    parts = split_path(path)
    if missing := find_missing(config, parts):
        raise UserError(missing)
    *parents, name = parts
    for node in _find_nodes(config, parents):
        if not isinstance(node, ConfigDict) or not isinstance(name, str) or name == EVERY:
            raise UserError(f"'{path}' is no field but a whole entry: name the fields of it that change")
        if isinstance(node[name], ConfigDict):
            raise UserError(f"'{path}' is a node with the fields {', '.join(sorted(node[name]))}: name one of them")
        try:
            node[name] = value
        except (TypeError, KeyError, AttributeError) as error:
            kind = type(node.get(name)).__name__
            raise UserError(f"'{path}' is of type {kind}; it cannot be {value!r}") from error


def _find_nodes(node: Any, parts: list[Part]) -> Iterator[Any]:
    if not parts:
        yield node
        return
    first, *rest = parts
    if first == EVERY:
        children = [node[name] for name in node] if isinstance(node, ConfigDict) else list(node)
    else:
        children = [node[first]]
    for child in children:
        yield from _find_nodes(child, rest)
