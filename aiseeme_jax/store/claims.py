"""Claims: who is making an artifact, so that nobody else makes it at the same time.

A claim is a file in the artifact's folder that names a process and is touched every few seconds while the process
works. A claim that nobody touches any more is taken over: at once where its process can be seen to be gone, else after
a minute of silence. So several runs can share a store, on one machine or over a network disk.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiseeme_jax.errors import UserError

CLAIM = "claim.json"
LOCK = ".claims.lock"
BEAT_SECONDS = 5.0
# A network disk may show a touch some seconds late, and a machine under load may beat late.
SILENT_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a claim.

    Attributes:
      host, process: name of the machine, and number of the process there.
      space: what process numbers count in: this boot of this machine, or this container.
      token: tells two claims of one process apart.
    """

    host: str
    process: int
    space: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def is_gone(self) -> bool:
        """Whether the process can be seen to have ended; False where that cannot be seen from here."""
        if self.space != _process_space():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


# Whoever holds a claim that cannot be read.
UNKNOWN = Holder("an unknown machine", 0, "", "")


@contextlib.contextmanager
def claim(directory: Path) -> Iterator[Holder | None]:
    """Claims the folder of an artifact while the context lasts.

    Yields None if the claim is ours, or the holder if another process is at work there.
    """
    mine = Holder(socket.gethostname(), os.getpid(), _process_space(), uuid.uuid4().hex)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / CLAIM
    holder = _take(path, mine)
    if holder is not None:
        yield holder
        return
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    beat.start()
    try:
        yield None
    finally:
        stop.set()
        beat.join()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def holder_of(directory: Path) -> Holder | None:
    """Who is at work in a folder now, if anybody is."""
    path = directory / CLAIM
    if not path.exists():
        return None
    holder = _read(path)
    return None if _is_silent(path, holder) else holder or UNKNOWN


def _take(path: Path, mine: Holder) -> Holder | None:
    """Takes a claim that is free or silent; gives the holder of one that is neither."""
    while not _create(path, mine):
        holder = _read(path)
        if _is_silent(path, holder):
            _clear_silent(path)
        elif path.exists():
            return holder or UNKNOWN
    return None


def _clear_silent(path: Path) -> None:
    """Removes a silent claim. One process at a time does so, and looks again before: another one may have been faster,
    and the claim that it put there must stay.
    """
    with open(path.parent.parent / LOCK, "w") as lock:
        # A disk that has no locks is one that several machines rarely share; there two may collide, in this moment.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_silent(path, _read(path)):
            path.unlink(missing_ok=True)


def _create(path: Path, mine: Holder) -> bool:
    """Puts a claim in its place whole, unless there is one: a link to a written file, which no other can be given."""
    beside = path.with_name(f".{CLAIM}.{mine.token}")
    try:
        beside.write_text(json.dumps(dataclasses.asdict(mine)))
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise UserError(f"{path.parent} cannot be written to: {error.strerror}") from error
        # A disk without links: the file is made where it belongs, and may be read before it is whole.
        return _create_exclusively(path, mine)
    finally:
        beside.unlink(missing_ok=True)
    return True


def _create_exclusively(path: Path, mine: Holder) -> bool:
    try:
        with open(path, "x") as file:
            file.write(json.dumps(dataclasses.asdict(mine)))
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> Holder | None:
    """The holder that a claim names; None if there is no claim, or none that can be read."""
    try:
        value: Any = json.loads(path.read_text())
        return Holder(**value)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _is_silent(path: Path, holder: Holder | None) -> bool:
    """Whether nobody keeps a claim any more. One that cannot be read may be about to be written."""
    if holder is not None and holder.is_gone():
        return True
    try:
        return _time_there(path.parent) - path.stat().st_mtime > SILENT_SECONDS
    except FileNotFoundError:
        # It was let go at this moment; the next one may have it already.
        return False


def _time_there(directory: Path) -> float:
    """The time by the clock of the disk, which may differ from that of this machine."""
    probe = directory / f".clock.{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        # A disk that fails for a moment must not end a run of days; a longer failure ends in the work itself.
        with contextlib.suppress(OSError):
            os.utime(path)


def _process_space() -> str:
    """This boot and this space of process numbers, where Linux tells them; else the name of the machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
