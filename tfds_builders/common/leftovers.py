"""What interrupted preparations leave, and how it goes.

TFDS writes to a folder `incomplete.…` and removes it when an exception ends the preparation. A signal that ends the
process at once leaves it, so SIGTERM is made an exception, and what SIGKILL or a power cut left is removed by the next
preparation of the config.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

PATTERN = "incomplete.*"


@contextlib.contextmanager
def ended_by_exception() -> Iterator[None]:
    """Within it, SIGTERM ends the process as an exception does, unless the process handles it in a way of its own."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Holds a folder, against other preparations alone, until it is left or the process ends, however it does.

    False if another process holds it, or the file system cannot tell.
    """
    with contextlib.ExitStack() as stack:
        try:
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def remove(parent: Path) -> None:
    """Deletes the unfinished data sets in `parent` that no process is writing."""
    for folder in parent.glob(PATTERN):
        with claimed(folder) as free:
            if free:
                shutil.rmtree(folder)
