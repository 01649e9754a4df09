"""Shares of the images of a split for pretraining: nested, of whole groups, without looking at labels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from aiseeme_jax import seeds


def draw_share(groups: Sequence[str], share: float, seed: int) -> Int[np.ndarray, "k"]:
    """Sorted indices of a share of the rows.

    The groups have one random order, a function of `seed` and of their names. The first of them are taken, at least
    one, until their rows come closest to the wanted share. So for one seed a smaller share is part of a larger one, and
    a group is taken whole or not at all.

    Args:
      groups: [N] lesion or patient of each row.
      share: of the rows, in (0, 1].

    Raises ValueError for a share out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of the images must lie in (0, 1], got {share}")
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    order = np.random.default_rng(seeds.derive(seed, "share of the images")).permutation(len(names))
    rows = np.cumsum(np.bincount(members.reshape(-1), minlength=len(names))[order])
    chosen = np.zeros(len(names), bool)
    chosen[order[: int(np.abs(rows - share * rows[-1]).argmin()) + 1]] = True
    return np.flatnonzero(chosen[members.reshape(-1)])
