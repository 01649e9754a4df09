"""Keys: the key of a piece of work is the hash of everything that its result depends on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

# Hexadecimal digits of a key in the name of a folder. They are 48 bits: among a million pieces of work, hardly any two
# agree by chance.
SHORT = 12


def make_key(content: Mapping[str, Any]) -> str:
    """Hex SHA-256 of JSON values. The order of names in a mapping does not matter.

    Raises TypeError for a value that has no form in JSON, such as a function or an array.
    """
    return hashlib.sha256(json.dumps(to_json(content), sort_keys=True).encode()).hexdigest()


def to_json(value: Any) -> Any:
    """Turns nodes of a config, mappings and sequences into plain dictionaries and lists.

    A float that is a whole number becomes an integer: 1 and 1.0 in a config mean the same.
    """
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(name): to_json(child) for name, child in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [to_json(child) for child in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be part of a key")


def hash_file(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hash(tree: Any) -> str:
    """Hex SHA-256 over names, shapes, types and bytes of all leaves, in the order of the names.

    Of an array that several processes share, each process must have all of it.
    """
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in sorted((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves):
        digest.update(f"{path} {leaf.shape} {leaf.dtype}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def shorten(key: str) -> str:
    """The first digits of a key, as in names of folders and in messages."""
    return key[:SHORT]
