"""Sorts what a preparation writes within little memory, however many images there are.

TFDS sorts the records of a split by the hash of their keys: in memory up to 1,000 MiB, which is all that a preparation
should take, and beyond that in a thousand files, for which it imports TensorFlow. It has no argument for either, so
this module puts its own in their places.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from tensorflow_datasets.core import shuffle

# Bytes of a split's records that are sorted in memory.
IN_MEMORY = 256 << 20
_HEADER = struct.Struct("=16sQ")


class Bucket:
    """Records of neighbouring hashes in one file, with the methods that TFDS calls on its own.

    The file is open only while it is written to, so that a thousand of them do not meet the limit of open files.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        self._records = 0

    def __len__(self) -> int:
        return self._records

    def add(self, key: int, data: bytes) -> None:
        if not self._records:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab") as file:
            file.write(_HEADER.pack(key.to_bytes(16), len(data)) + data)
        self._records += 1

    def read_values(self) -> Iterator[tuple[int, bytes]]:
        """Pairs of hash and record in the order in which they came."""
        if not self._records:
            return
        with open(self._path, "rb") as file:
            while header := file.read(_HEADER.size):
                key, size = _HEADER.unpack(header)
                yield int.from_bytes(key), file.read(size)

    def del_file(self) -> None:
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def within_little_memory() -> Iterator[None]:
    """TFDS sorts as this module says, until it is left."""
    before = shuffle.MAX_MEM_BUFFER_SIZE, shuffle._Bucket
    shuffle.MAX_MEM_BUFFER_SIZE, shuffle._Bucket = IN_MEMORY, Bucket
    try:
        yield
    finally:
        shuffle.MAX_MEM_BUFFER_SIZE, shuffle._Bucket = before
