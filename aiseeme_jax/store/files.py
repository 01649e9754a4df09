"""How a file gets to its place: whole, or not at all."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from aiseeme_jax.errors import DiskError

# What the user can mend: space, permissions, a path that leads through a file.
MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
# What a file is called until it is whole.
LEFT_OVER = re.compile(r"\..+\.\d+\.part")


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Gives a path to write a file to, which at the end takes the place of `path`; after an error it is not there.

    A kill leaves the old file or the new one, and so does a power cut: the file is on the disk before it gets its name,
    and what comes after this finds it there.

    Raises DiskError if the disk is full, or the folder cannot be written to.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        _sync(beside)
        beside.replace(path)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        raise DiskError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    # A name is kept by its folder, and that of the folder, which may be as new, by the next one.
    for folder in (path.parent, path.parent.parent):
        _sync(folder)


def sweep(directory: Path) -> None:
    """Deletes what killed processes were writing in a folder when they ended. Nobody else may be at work there."""
    for path in directory.glob(".*"):
        if path.is_file() and LEFT_OVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        # Some network file systems do not sync folders.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)
