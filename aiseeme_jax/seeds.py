"""Seeds: every use of random numbers has a stream of its own.

Two draws from the same key of JAX are not independent: draws of different shapes begin with the same numbers. So a seed
is never used directly. `derive` makes a seed for one purpose from it. Positions are hashed, not added.
"""

import hashlib


def derive(*parts: int | str) -> int:
    """A seed, 0 to 2^32 - 1, that follows from all of `parts`, in their order, and from nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def of_stage(run: int, position: int, own: int | None) -> int:
    """The seed of a stage of a curriculum: its `own`, if it has one, else that of its position in the run."""
    return derive("run", run, "stage", position) if own is None else derive("stage", own)
