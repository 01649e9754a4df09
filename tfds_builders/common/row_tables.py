"""Tables of a split: what a data set says about each image besides its pixels, as one NumPy file for each split.

A preparation writes `tables-<split>.npz` beside the record files, so that a reader gets all ids, groups and labels
without reading the records. Row i of each table is row i of `as_data_source(split)`. The arrays of the file, by name:

    value/<feature>        a number for each row, [N], or the vector `labels`, [N, K], in the feature's dtype;
                           a class is its number
    text/<feature>/utf8    the texts of all rows behind one another in UTF-8, uint8 [bytes]
    text/<feature>/ends    where the text of each row ends in it, int64 [N]

A feature has a table if it is a single number, a class or a text, or is named `labels`.
"""

import contextlib
import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from tfds_builders.common.reading import StoredFeatures

TEXT = np.dtypes.StringDType()
VECTOR = "labels"
# Records that are read at once: so many bytes, and no more rows than this.
READ_BYTES, READ_ROWS = 64 << 20, 4096
# What zipfile and NumPy raise on changed bytes.
UNREADABLE = (OSError, EOFError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError)
UNREADABLE += (zipfile.BadZipFile, zlib.error, struct.error)
# Texts that are decoded at once.
DECODED = 1 << 16


class DamagedTable(ValueError):
    """A file of tables that cannot be used; the message names it and says what to do."""


def table_path(folder: str | Path, split: str) -> Path:
    return Path(folder) / f"tables-{split}.npz"


def table_features(features: Mapping[str, Any]) -> list[str]:
    """Names of the features that have a table."""
    scalars = [name for name in features if features[name].shape == () and name != VECTOR]
    vector = [VECTOR] if VECTOR in features and len(features[VECTOR].shape) == 1 else []
    return [*scalars, *vector]


def write_tables(builder: Any) -> None:
    """Writes the tables of every split of a data set that has just been prepared, whole or not at all."""
    for split in builder.info.splits:
        save_tables(table_path(builder.data_dir, split), read_tables(builder, split))


def read_tables(builder: Any, split: str) -> dict[str, Shaped[np.ndarray, "rows ..."]]:
    """Reads the tables of a split from its records, part by part; pixels are not decoded. Texts are StringDType."""
    features = builder.info.features
    names = table_features(features)
    rows = StoredFeatures(builder, split, names)
    info = builder.info.splits[split]
    at_once = int(np.clip(READ_BYTES * len(rows) // max(info.num_bytes, 1), 1, READ_ROWS))
    tables = {name: np.empty((len(rows), *features[name].shape), _dtype(features[name])) for name in names}
    for start in range(0, len(rows), at_once):
        part = rows.__getitems__(range(start, min(start + at_once, len(rows))))
        for name, table in tables.items():
            values = [row[name] for row in part]
            table[start : start + len(part)] = list(map(as_text, values)) if table.dtype == TEXT else values
    return tables


def _dtype(feature: Any) -> np.dtype:
    dtype = np.dtype(feature.np_dtype)
    return dtype if dtype.kind in "biuf" else TEXT


def as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def save_tables(path: Path, tables: Mapping[str, Shaped[np.ndarray, "rows ..."]]) -> None:
    """Writes a file of tables, whole or not at all. OSError if the folder cannot be written to."""
    arrays: dict[str, np.ndarray] = {}
    for name, table in tables.items():
        if table.dtype == TEXT:
            arrays[f"text/{name}/utf8"], arrays[f"text/{name}/ends"] = encode(table)
        else:
            arrays[f"value/{name}"] = table
    with _replaced(path) as file:
        np.savez(file, **arrays)


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[io.IOBase]:
    """A file beside `path`, which takes its place at the end; several processes may write the same one."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_tables(path: Path, rows: int, names: Sequence[str]) -> dict[str, Shaped[np.ndarray, "rows ..."]]:
    """Reads the named tables of a file that `save_tables` wrote.

    Args:
      path: of the file.
      rows: of the split.
      names: of features.

    Raises FileNotFoundError if there is no such file; DamagedTable if it is cut or changed, lacks a table, or has
    another number of rows.
    """
    try:
        # Checked first, since a header with other numbers may ask for any amount of memory.
        with zipfile.ZipFile(path) as archive:
            if (changed := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {changed} is wrong")
        with np.load(path, allow_pickle=False) as stored:
            tables = {name: _table(stored, name) for name in names}
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise DamagedTable(f"{path} is damaged ({error}): {_remedy(path)}") from error
    for name, table in tables.items():
        if len(table) != rows:
            raise DamagedTable(f"{path} has {len(table)} rows of {name}, but its split {rows}: {_remedy(path)}")
    return tables


def _remedy(path: Path) -> str:
    return f"delete this file ({path.name}); it is written anew when the data set is next opened"


def _table(stored: Mapping[str, np.ndarray], name: str) -> Shaped[np.ndarray, "rows ..."]:
    if f"value/{name}" in stored:
        return stored[f"value/{name}"]
    return decode(stored[f"text/{name}/utf8"], stored[f"text/{name}/ends"])


def encode(texts: Shaped[np.ndarray, "rows"]) -> tuple[UInt8[np.ndarray, "bytes"], Int[np.ndarray, "rows"]]:
    """The texts behind one another in UTF-8, and where each ends."""
    parts, lengths = [], []
    for start in range(0, len(texts), DECODED):
        encoded = [text.encode() for text in texts[start : start + DECODED].tolist()]
        parts.append(b"".join(encoded))
        lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    ends = np.cumsum(np.concatenate(lengths)) if lengths else np.empty(0, np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), ends


def decode(utf8: UInt8[np.ndarray, "bytes"], ends: Int[np.ndarray, "rows"]) -> Shaped[np.ndarray, "rows"]:
    """What `encode` made texts of. ValueError if the ends do not fit the bytes."""
    if len(ends) and (ends[-1] != len(utf8) or ends[0] < 0 or (np.diff(ends) < 0).any()):
        raise ValueError("the ends of its texts do not fit their bytes")
    texts, begin = np.empty(len(ends), TEXT), 0
    for start in range(0, len(ends), DECODED):
        part = ends[start : start + DECODED].tolist()
        data = utf8[begin : part[-1]].tobytes()
        places = [0, *(end - begin for end in part)]
        texts[start : start + len(part)] = [
            data[one:other].decode() for one, other in zip(places, places[1:], strict=False)
        ]
        begin = part[-1]
    return texts
