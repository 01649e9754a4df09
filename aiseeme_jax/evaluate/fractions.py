"""Which labels a target may see: nested, stratified by class, whole lesions or patients.

A study of 1 %, 10 % and 100 % of the labels says something about the amount only if the smaller share is part
of the larger, if no class vanishes, and if no lesion lies on both sides.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike


def nested_fraction(labels: ArrayLike, groups: Sequence, fraction: float, seed: int) -> Int[np.ndarray, "k"]:
    """Sorted indices of a share of the rows.

    Each group counts for the rarest class among its rows. Within a class the groups stand in one random
    order, a function of `seed` and the groups' names, and the first of them are taken until their rows come
    closest to the share wanted. So for one seed a smaller fraction is part of a larger one, a group is in or
    out as a whole, every class keeps at least one group, and fraction 1 is everything.

    Args:
      labels: int [N], none negative.
      groups: [N] lesion or patient of each row.
      fraction: share of the rows of each class, in (0, 1].
      seed: of the order of the groups.
    """
    labels = np.asarray(labels)
    if not 0 < fraction <= 1:
        raise ValueError(f"a label fraction must lie in (0, 1], got {fraction}")
    if labels.ndim != 1 or len(labels) != len(groups) or not len(labels):
        raise ValueError(f"need one group per label, got labels {labels.shape} and {len(groups)} groups")
    if labels.min() < 0:
        raise ValueError(f"row {int(labels.argmin())} has no label ({labels.min()}): fractions are of labelled rows")
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    member = member.reshape(-1)
    order = np.random.default_rng(seed).permutation(len(names))
    size = np.bincount(member, minlength=len(names))
    holds = np.zeros((len(names), labels.max() + 1), bool)
    holds[member, labels] = True
    stratum = _rarest_class(holds, np.bincount(labels))

    chosen = np.zeros(len(names), bool)
    for c in np.unique(labels):
        # A class that only ever shares its groups with rarer ones has no stratum: its first group keeps it.
        chosen[next(group for group in order if holds[group, c])] = True
        chosen[_closest_prefix(order[stratum[order] == c], size, fraction)] = True
    return np.flatnonzero(chosen[member])


def seeds_for(protocol: str, fraction: float, seeds: Sequence[int]) -> Sequence[int]:
    """The seeds a target is measured with. On all labels a frozen protocol gives one answer, so it is asked once."""
    return seeds[:1] if fraction == 1 and protocol != "finetune" else seeds


def in_words(fraction: float) -> str:
    """'all labels', '10 % of the labels'."""
    return "all labels" if fraction == 1 else f"{100 * fraction:g} % of the labels"


def _rarest_class(holds: np.ndarray, counts: Int[np.ndarray, "c"]) -> Int[np.ndarray, "g"]:
    """For each group the class with the fewest rows in all, among those it holds."""
    return np.where(holds, counts, np.iinfo(np.int64).max).argmin(axis=1)


def _closest_prefix(
    groups: Int[np.ndarray, "g"], size: Int[np.ndarray, "all"], fraction: float
) -> Int[np.ndarray, "k"]:
    """The first groups, at least one, whose rows together come closest to `fraction` of all."""
    if not len(groups):
        return groups
    rows = np.cumsum(size[groups])
    return groups[: int(np.abs(rows - fraction * rows[-1]).argmin()) + 1]
