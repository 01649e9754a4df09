"""A disk that is full, or not writable, while a data set is prepared: told as what it is, whichever library met it."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
# What only writing meets; the others may as well be of an input.
OF_WRITING = (*FULL, errno.EROFS)
# What the C++ library that writes the records says instead of an error number.
WORDS = {os.strerror(number): number for number in OF_WRITING}


class DiskError(OSError):
    """What is prepared cannot be written; the message says which disk, how much was wanted, and what to do."""


@contextlib.contextmanager
def explained(root: Path, wanted: Callable[[], int | None] = lambda: None) -> Iterator[None]:
    """Within it, the disk of the folder `root` being full or not writable is a DiskError.

    Args:
      root: the folder that receives the data sets.
      wanted: how many bytes the preparation takes in all, as far as that is known when it fails.
    """
    room = free_bytes(root)
    try:
        yield
    except DiskError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        number = find_number(error, root)
        if number is None:
            raise
        raise DiskError(describe(number, root, room, wanted())) from error


def find_number(error: BaseException | None, root: Path) -> int | None:
    """The error number, if the error or one that it comes from is of writing to `root`."""
    while error is not None:
        if isinstance(error, OSError):
            if error.errno in OF_WRITING or (error.errno in NOT_WRITABLE and _is_below(error.filename, root)):
                return error.errno
        elif isinstance(error, RuntimeError):
            found = next((number for words, number in WORDS.items() if words in str(error)), None)
            if found is not None:
                return found
        error = error.__cause__ or error.__context__
    return None


def describe(number: int, root: Path, room: int, wanted: int | None) -> str:
    goes_on = "Nothing half-written is left; the same command then prepares the data set from its beginning"
    if number not in FULL:
        return (
            f"{root} cannot be written to ({os.strerror(number)}; its disk is {mount_of(root)}). Allow writing there, "
            f"or take another --data_dir. {goes_on}"
        )
    needs = f"; the data set takes about {in_words(wanted)} while it is prepared" if wanted else ""
    return (
        f"the disk {mount_of(root)}, on which {root} lies, is full ({os.strerror(number)}): {in_words(room)} were free "
        f"when the preparation began{needs}. Make room, or take a --data_dir on another disk. {goes_on}"
    )


def in_words(size: int) -> str:
    """Bytes as people read them, such as '1.2 GB'."""
    value, units = float(size), ("bytes", "kB", "MB", "GB", "TB")
    for unit in units:
        if value < 1000 or unit == units[-1]:
            return f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free


def mount_of(folder: Path) -> Path:
    """Where the disk of a folder, which need not exist, is mounted."""
    path = _existing(folder).resolve()
    while not path.is_mount():
        path = path.parent
    return path


def _existing(folder: Path) -> Path:
    path = folder.absolute()
    while not path.exists():
        path = path.parent
    return path


def _is_below(name: str | bytes | int | None, root: Path) -> bool:
    """Whether a file is in the folder, or is a folder above it, which would have to be made."""
    if not isinstance(name, str):
        return False
    path, root = Path(name).absolute(), root.absolute()
    return path.is_relative_to(root) or root.is_relative_to(path)
