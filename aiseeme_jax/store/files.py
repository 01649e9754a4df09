"""Writes files whole or not at all, and says what is wrong with a disk that refuses them."""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from aiseeme_jax.errors import DiskError, UserError

# What the user can mend: number of the error -> what is wrong, and what to do.
NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "a quota on this disk is used up"}
REFUSED = {
    errno.EROFS: "the disk is read-only: make it writable",
    errno.EACCES: "this user has no right to do so: change the rights, or name another folder",
    errno.EPERM: "this user has no right to do so: change the rights, or name another folder",
    errno.ENOTDIR: "a part of its path is a file, where a folder belongs: move that file away, or name another folder",
    errno.EEXIST: "there is a file where a folder belongs: move it away, or name another folder",
    errno.EISDIR: "there is a folder where a file belongs: move it away",
    errno.EIO: "the disk fails: see the messages of the system",
}
# Libraries that write without Python raise errors of their own, which contain the words of the system.
WORDS = {os.strerror(number): number for number in (*NO_ROOM, errno.EROFS, errno.EACCES)}
# How an address in a network begins. A `Path` has dropped one of the two slashes.
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# Names of files that are not complete yet.
LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{32}\.part")


class explain_disk_errors(contextlib.AbstractContextManager):  # noqa: N801, used as a function
    """Within it, an error of a disk becomes a DiskError, whichever library raises it, and in whichever of its threads.

    A library may wrap the error of the system in its own: all causes of an error are looked through. Every other error
    passes, and so does a UserError.

    Args:
      place: the file or folder that is written, for errors that do not name one.
      wanted: bytes that are to be written, if that is known.
    """

    def __init__(self, place: str | Path, wanted: int | None = None):
        self.place, self.wanted = Path(place), wanted

    def __exit__(self, kind, error, trace) -> None:
        if not isinstance(error, Exception) or isinstance(error, UserError):
            return
        found = _find_cause(error)
        if found is not None:
            number, name = found
            raise DiskError(_describe(number, Path(name) if name else self.place, self.wanted)) from error


def _find_cause(error: BaseException) -> tuple[int, str | None] | None:
    """The number of the first error of a disk among an error and its causes, and the file that it names."""
    waiting, seen = [error], set()
    while waiting:
        error = waiting.pop(0)
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in NO_ROOM | REFUSED:
            # The name of a file that is not complete yet would tell the user nothing.
            named = isinstance(error.filename, str) and not LEFT_OVER.fullmatch(Path(error.filename).name)
            return error.errno, error.filename if named else None
        for words, number in WORDS.items():
            if words in str(error):
                return number, None
        waiting += [error.__cause__, error.__context__, *getattr(error, "exceptions", ())]
    return None


def _describe(number: int, path: Path, wanted: int | None) -> str:
    if number in NO_ROOM:
        asked = f", and {format_bytes(wanted)} were wanted" if wanted else ""
        return (
            f"{path} cannot be written: {NO_ROOM[number]}. {_describe_room(path)}{asked}. Make room; the same command "
            "then goes on"
        )
    verb = "written" if number == errno.EROFS else "used"
    disk = f" ({find_mount(path)})" if number in (errno.EROFS, errno.EIO) else ""
    return f"{path} cannot be {verb}: {REFUSED[number]}{disk}; the same command then goes on"


def _describe_room(path: Path) -> str:
    """How much is free on the disk of a path, as a sentence without its full stop."""
    mount = find_mount(path)
    try:
        room, figures = shutil.disk_usage(mount), os.statvfs(mount)
    except OSError:
        return f"It is mounted at {mount}"
    files = ", but it can hold no more files" if figures.f_files and not figures.f_favail else ""
    return f"Of the {format_bytes(room.total)} at {mount}, {format_bytes(room.free)} are free{files}"


def check_local(path: str | Path, name: str) -> None:
    """Raises UserError for an address such as gs://bucket/folder in the place of a path.

    Args:
      name: of the flag or field, for the message.
    """
    if ADDRESS.match(str(path)):
        raise UserError(
            f"{name}: '{path}' is an address in a network, and only files of this machine can be read and written: "
            "mount it as a folder (gcsfuse, s3fs), or copy it"
        )


def check_folder(path: str | Path, name: str) -> None:
    """Raises UserError if there is something else than a folder at a path, or if it is an address. It may be absent."""
    check_local(path, name)
    if str(path) and os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{name}: there is a file at '{path}', where a folder belongs: name another folder")


def find_mount(path: Path) -> Path:
    """The folder at which the disk of a path is mounted. The path need not exist."""
    path = Path(os.path.abspath(path))
    while not path.exists():
        path = path.parent
    path = path.resolve()
    while not os.path.ismount(path):
        path = path.parent
    return path


def format_bytes(count: float) -> str:
    """A number of bytes as in '3.4 MB'."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 999.95 and len(units) > 1:
        count, units = count / 1000, units[1:]
    return f"{count:.{0 if units[0] == 'B' else 1}f} {units[0]}"


def check_writable(folder: Path) -> None:
    """Raises OSError if nothing can be written to a folder now."""
    probe = folder / f".probe.{uuid.uuid4().hex}.part"
    probe.mkdir()
    try:
        (probe / "file").write_bytes(b"1")
    finally:
        shutil.rmtree(probe, ignore_errors=True)


@contextlib.contextmanager
def write_whole(path: Path, wanted: int | None = None) -> Iterator[Path]:
    """Gives a path to write a file to. At the end the file is renamed to `path`. After an error it is deleted.

    A kill or a power cut leaves the old file or the new one, complete: the file is on the disk before it is renamed.

    Args:
      path: of the file. Its folder is made.
      wanted: its size in bytes, if that is known, for the message of a full disk.

    Raises DiskError if the disk is full, or the folder cannot be written to.
    """
    # Process numbers are not enough: containers that share a disk may have the same.
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    with explain_disk_errors(path, wanted):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.touch()
            mode = beside.stat().st_mode
            yield beside
            # Libraries may give a file to its owner alone.
            beside.chmod(mode)
            _sync(beside)
            beside.replace(path)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        # The name of a file is stored in its folder. The folder may be new, so its parent is synchronised too.
        for folder in (path.parent, path.parent.parent):
            _sync(folder)


def delete_leftovers(directory: Path) -> None:
    """Deletes the half-written files that killed processes left in a folder. No other process may be at work there."""
    for path in directory.glob(".*"):
        if LEFT_OVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


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
