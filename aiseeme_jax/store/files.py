"""Writes files whole or not at all."""

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from aiseeme_jax.errors import DiskError

# Errors that the user can mend: no space, no permission, a path that leads through a file.
MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
# Names of files that are not complete yet.
LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{32}\.part")


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Gives a path to write a file to. At the end the file is renamed to `path`. After an error it is deleted.

    A kill or a power cut leaves the old file or the new one, complete: the file is on the disk before it is renamed.

    Raises DiskError if the disk is full, or the folder cannot be written to.
    """
    # Process numbers are not enough: containers that share a disk may have the same.
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
        mode = beside.stat().st_mode
        yield beside
        # Libraries may give a file to its owner alone.
        beside.chmod(mode)
        _sync(beside)
        beside.replace(path)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        raise DiskError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    # The name of a file is stored in its folder. The folder may be new, so its parent is synchronised too.
    for folder in (path.parent, path.parent.parent):
        _sync(folder)


def delete_leftovers(directory: Path) -> None:
    """Deletes the half-written files that killed processes left in a folder. No other process may be at work there."""
    for path in directory.glob(".*"):
        if path.is_file() and LEFT_OVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        # Some network file systems cannot synchronise folders.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)
