"""Which labels a target may use: nested, stratified shares of whole lesions or patients.

A study of 1 %, 10 % and 100 % of the labels says something about their amount only if each smaller share is part of the
larger one, if no class vanishes, and if no lesion or patient is cut in two.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate.labels import make_labels


def nested_fraction(labels: ArrayLike, groups: Sequence, fraction: float, seed: int) -> Int[np.ndarray, "k"]:
    """Sorted indices of a share of the rows.

    Each group belongs to the stratum of the rarest class that its rows have; of findings, to that of the rarest finding
    that is present in them, and where none is, to a stratum of its own, 'no finding'. Within a stratum the groups have
    one random order, a function of `seed` and the groups' names. The first of them are taken, until their rows come
    closest to the wanted share. So for one seed a smaller fraction is part of a larger one, a group is taken whole or
    not at all, every class or finding keeps at least one group, and fraction 1 is everything.

    Args:
      labels: int [N], none negative; or findings, float [N, C], with one known in each row.
      groups: [N] lesion or patient of each row.
      fraction: share of the rows of each stratum, in (0, 1].
      seed: of the order of the groups.

    Raises ValueError for a fraction out of range, and for rows without a label or a group.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"a label fraction must lie in (0, 1], got {fraction}")
    if len(labels) != len(groups):
        raise ValueError(f"need one group per label, got labels {np.shape(labels)} and {len(groups)} groups")
    made = make_labels(labels)
    if not made.known.any(axis=1).all():
        row = int(np.flatnonzero(~made.known.any(axis=1))[0])
        raise ValueError(f"row {row} has no label: leave unlabelled rows out")
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    member = member.reshape(-1)
    order = np.random.default_rng(seed).permutation(len(names))
    size = np.bincount(member, minlength=len(names))
    strata = made.strata()
    holds = _any_row(strata, member, len(names))
    stratum = _rarest(holds, strata.sum(axis=0))

    chosen = np.zeros(len(names), bool)
    for c in np.flatnonzero(strata.any(axis=0)):
        # A class that only occurs in groups with rarer ones has no group in its stratum: its first group keeps it.
        chosen[next(group for group in order if holds[group, c])] = True
        chosen[_closest_prefix(order[stratum[order] == c], size, fraction)] = True
    return np.flatnonzero(chosen[member])


def draw_shots(labels: ArrayLike, groups: Sequence, shots: int, seed: int) -> Int[np.ndarray, "k"]:
    """Sorted indices of a few rows of each class; all rows of a class that has no more.

    The groups have one random order, a function of `seed` and their names. Of each class the first row of each group is
    taken, in this order, then the second, and so on. So for one seed fewer shots are part of more.

    Args:
      labels: int [N], none negative.
      groups: [N] lesion or patient of each row.
      shots: rows of each class, at least 1.

    Raises ValueError for a number out of range.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}")
    labels = np.asarray(labels)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    member = member.reshape(-1)
    place = np.empty(len(names), np.int64)
    place[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names))
    chosen = []
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        rows = rows[np.argsort(place[member[rows]], kind="stable")]
        # Rows of a group lie side by side now: its first row is its turn 0.
        _, first, size = np.unique(place[member[rows]], return_index=True, return_counts=True)
        turn = np.arange(len(rows)) - np.repeat(first, size)
        chosen.append(rows[np.argsort(turn, kind="stable")][:shots])
    return np.sort(np.concatenate(chosen))


def in_words(fraction: float, shots: int = 0) -> str:
    """'all labels', '10 % of the labels', '8 labels of each class'."""
    if shots:
        return f"{shots} label{'s' * (shots > 1)} of each class"
    return "all labels" if fraction == 1 else f"{100 * fraction:g} % of the labels"


def _any_row(table: Bool[np.ndarray, "n s"], member: Int[np.ndarray, "n"], groups: int) -> Bool[np.ndarray, "g s"]:
    """Whether any row of each group is True, for each column."""
    found = np.zeros((groups, table.shape[1]), bool)
    rows, columns = np.nonzero(table)
    found[member[rows], columns] = True
    return found


def _rarest(holds: Bool[np.ndarray, "g s"], counts: Int[np.ndarray, "s"]) -> Int[np.ndarray, "g"]:
    """For each group the column with the fewest rows in all, among those it holds."""
    return np.where(holds, counts, np.iinfo(np.int64).max).argmin(axis=1)


def _closest_prefix(
    groups: Int[np.ndarray, "g"], size: Int[np.ndarray, "all"], fraction: float
) -> Int[np.ndarray, "k"]:
    """The first groups, at least one, whose rows together come closest to `fraction` of all."""
    if not len(groups):
        return groups
    rows = np.cumsum(size[groups])
    return groups[: int(np.abs(rows - fraction * rows[-1]).argmin()) + 1]
