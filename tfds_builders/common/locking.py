"""One preparation of a data set at a time: a second one waits, and then finds it ready."""

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5


@contextlib.contextmanager
def hold(path: Path, name: str) -> Iterator[None]:
    """Holds the lock file `path` within the context; waits, and says so once, while another process holds it.

    The lock ends with the process, however that ends. Where the file system has no locks, there is none.

    Args:
      path: of the file, which is there only as long as the lock is held.
      name: of what is made, for the message.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _acquire(path, name)
    try:
        yield
    finally:
        if file is not None:
            # Before the lock goes: else the file removed might be that of the next holder.
            path.unlink(missing_ok=True)
            file.close()


def _acquire(path: Path, name: str) -> IO[str] | None:
    told = False
    while True:
        file = open(path, "a+")  # noqa: SIM115 (it holds the lock as long as it is open)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                log.warning("%s is being prepared by %s; waiting until it is ready", name, _holder(file))
                told = True
            file.close()
            time.sleep(POLL_SECONDS)
            continue
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            return None
        if _is_at(file, path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            return file
        # The last holder removed it between the opening and the lock.
        file.close()


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "another process"
