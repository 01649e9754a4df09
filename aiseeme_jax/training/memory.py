"""Memory of the host between two pieces of work."""

import ctypes
import gc


def give_back_memory() -> None:
    """Gives the system what this process has freed.

    The allocator of glibc keeps what a compilation used: some 30 MB for each small stage, in a process that may train
    hundreds. Other allocators have no such function, and nothing is done.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
