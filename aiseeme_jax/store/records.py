"""JSON files with a checksum, written whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from aiseeme_jax.errors import UserError
from aiseeme_jax.store import files

CHECKSUM = "checksum"


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all. Only the first process writes."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all. Only the first process writes."""
    if jax.process_index():
        return
    with files.write_whole(path, len(content)) as beside:
        beside.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object with a checksum of its content. Only the first process writes."""
    write_text(path, json.dumps(add_checksum(value), indent=2) + "\n")


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Reads a file of `write_json`, and returns its content without the checksum.

    Args:
      remedy: says what to do if the file is damaged, as the end of a sentence.

    Raises UserError, with the file and the remedy, if its content is not what was written; DiskError if the user has no
    right to read it.
    """
    with files.explain_disk_errors(path):
        content = path.read_bytes()
    try:
        return check_content(parse_object(content))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parses a JSON object. Raises ValueError if it is no JSON, or no object."""
    try:
        return require_object(json.loads(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def require_object(value: Any) -> dict[str, Any]:
    """A JSON value that must be an object. Raises ValueError if it is another."""
    if not isinstance(value, dict):
        raise ValueError(f"it contains a {type(value).__name__}, not an object")
    return value


def add_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object, as it is read again, with a checksum of its content."""
    plain = json.loads(json.dumps(value))
    return {**plain, CHECKSUM: _checksum(plain)}


def check_content(value: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an object that `add_checksum` made. Raises ValueError if it was changed since."""
    content = {name: child for name, child in value.items() if name != CHECKSUM}
    if value.get(CHECKSUM) != _checksum(content):
        raise ValueError("its checksum is wrong: it was edited, or bits of it changed")
    return content


def describe_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The values that differ between two records, for a message; '' if they are equal. Nested names are shortened."""
    found = []
    for name in {**then, **now}:
        old, new = then.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.append(describe_differences(old, new))
        elif old != new:
            found.append(f"{name} {_shorten(old)} -> {_shorten(new)}")
    return ", ".join(filter(None, found))


def _shorten(value: Any) -> str:
    """The beginning of a value, such as a hash, for a message."""
    return "(none)" if value is None else str(value)[:12]


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
