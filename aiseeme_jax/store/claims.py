"""Claims: they keep two processes from making the same artifact at the same time.

A claim is a file in the artifact's folder. It names the process that makes the artifact, and that process touches it
every few seconds. A claim is silent if its process has ended, as far as that can be seen from here, or if nobody has
touched it for a minute. Another process may then take it over. So several runs can share a store, on one machine or
over a network disk.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiseeme_jax.errors import UserError
from aiseeme_jax.store import files

CLAIM = "claim.json"
LOCK = ".claims.lock"
BEAT_SECONDS = 5.0
# A network disk may show a touch some seconds late, and a busy machine may touch late.
SILENT_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a claim.

    Attributes:
      host, process: name of the machine, and number of the process there.
      space: where process numbers are unique: one boot of one machine, or one container.
      token: distinguishes two claims of one process.
    """

    host: str
    process: int
    space: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def is_gone(self) -> bool:
        """Whether the process has ended; False if this cannot be seen from here."""
        if self.space != _name_process_space():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return _is_zombie(self.process)


# What this process has claimed: folder -> its claim.
HELD: dict[Path, Holder] = {}
# The holder of a claim that cannot be read.
UNKNOWN = Holder("an unknown machine", 0, "", "")


@contextlib.contextmanager
def claim(directory: Path) -> Iterator[Holder | None]:
    """Claims the folder of an artifact while the context lasts.

    Yields None if this process has the claim, or the holder if another process is at work there.
    """
    mine = identify_process()
    path = directory / CLAIM
    with files.explain_disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        holder = _take(path, mine)
    if holder is not None:
        yield holder
        return
    stop = threading.Event()
    beat = threading.Thread(target=_touch_until, args=(path, mine, stop), daemon=True)
    beat.start()
    HELD[directory] = mine
    try:
        yield None
    finally:
        del HELD[directory]
        stop.set()
        beat.join()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def identify_process() -> Holder:
    """This process, with a token of its own at each call."""
    return Holder(socket.gethostname(), os.getpid(), _name_process_space(), uuid.uuid4().hex)


def check_held(directory: Path) -> None:
    """Raises UserError if this process claimed a folder and another one has taken it over since.

    That happens to a run that was held up for longer than SILENT_SECONDS, by a scheduler perhaps.
    """
    mine = HELD.get(directory)
    if mine is not None and (holder := _read(directory / CLAIM)) != mine:
        raise UserError(
            f"{directory} was taken over by {holder or 'another run'} while this run was held up. Start it again: "
            "it waits for that one, and makes what is left"
        )


def find_holder(directory: Path) -> Holder | None:
    """The process that is at work in a folder now; None if there is none."""
    path = directory / CLAIM
    if not path.exists():
        return None
    holder = _read(path)
    return None if _is_silent(path, holder) else holder or UNKNOWN


def _take(path: Path, mine: Holder) -> Holder | None:
    """Takes a claim if it is free or silent, and returns None; else returns the holder."""
    while not _create(path, mine):
        holder = _read(path)
        if _is_silent(path, holder):
            _clear_silent(path)
        elif path.exists():
            return holder or UNKNOWN
    return None


def _clear_silent(path: Path) -> None:
    """Removes a silent claim.

    One process at a time does so, and it checks the claim again: another process may have been faster, and its new
    claim must stay.
    """
    with open(path.parent.parent / LOCK, "w") as lock:
        # Some disks have no locks. Several machines rarely share one; if they do, two may collide in this moment.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_silent(path, _read(path)):
            path.unlink(missing_ok=True)


def _create(path: Path, mine: Holder) -> bool:
    """Creates a claim, unless there is one. It is written beside and then linked, so that it is never half-written."""
    beside = path.with_name(f".{CLAIM}.{mine.token}")
    try:
        beside.write_text(json.dumps(dataclasses.asdict(mine)))
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        # The disk has no links. The file is then created in its place, and may be read before it is complete.
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
    """The holder that a claim names; None if there is no claim, or if it cannot be read."""
    try:
        value: Any = json.loads(path.read_text())
        holder = Holder(**value)
    except (OSError, ValueError, TypeError):
        return None
    texts = (holder.host, holder.space, holder.token)
    return holder if isinstance(holder.process, int) and all(isinstance(text, str) for text in texts) else None


def _is_silent(path: Path, holder: Holder | None) -> bool:
    """Whether a claim may be taken over. One that cannot be read may be half-written, so only its age counts."""
    if holder is not None and holder.is_gone():
        return True
    try:
        return _read_clock(path.parent) - path.stat().st_mtime > SILENT_SECONDS
    except FileNotFoundError:
        # It was removed in this moment. Another process may have the next claim already.
        return False


def _read_clock(directory: Path) -> float:
    """The time by the clock of the disk, which may differ from the clock of this machine."""
    probe = directory / f".clock.{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        # Who may only look, as `--plan` does, cannot ask the disk.
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _touch_until(path: Path, mine: Holder, stop: threading.Event) -> None:
    """Keeps a claim fresh, unless another process has taken it over."""
    while not stop.wait(BEAT_SECONDS):
        # A disk that fails for a moment must not end a run of days. After a longer failure the work itself fails.
        with contextlib.suppress(OSError):
            if _read(path) == mine:
                os.utime(path)


def _is_zombie(process: int) -> bool:
    """Whether a process has ended, and its parent has not asked for its exit code yet; False where this is unknown."""
    try:
        # "number (name) state …"; the name may contain anything.
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(") ")[2].startswith("Z")
    except OSError:
        return False


def _name_process_space() -> str:
    """The boot and the namespace of process numbers, if Linux tells them; else the name of the machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
