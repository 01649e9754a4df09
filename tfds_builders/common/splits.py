"""Splits that keep groups (lesions, patients) whole, follow the classes, and do not depend on the order of
rows.
"""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from tfds_builders.common.spelling import fold

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
# The key of a data set's metadata that holds `renamed`: the training code and `check` read it.
JOINED = "joined_groups"
# The key of a data set's metadata that holds the report's warnings: the training code shows them.
WARNINGS = "warnings"
# The key of the report that holds `spelled_alike`.
SPELLED_ALIKE = "groups_spelled_alike"


def join_groups(groups: Sequence[str], digests: Sequence[Hashable]) -> list[str]:
    """Merges groups that share an image: rows with equal digests end in one group, named after its smallest
    member.
    """
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    first: dict[Hashable, str] = {}
    for group, digest in zip(groups, digests, strict=True):
        one, other = root(first.setdefault(digest, group)), root(group)
        parent[max(one, other)] = min(one, other)
    return [root(group) for group in groups]


def join_alike(groups: Sequence[str], ids: Sequence[str] = ()) -> list[str]:
    """Merges groups whose names look alike, such as P-1 and p-1: to take them for two could tear a patient.

    Args:
      groups: of each row.
      ids: of each row; a group of that name is the image itself, and nobody's name.
    """
    nobody = {group for group, own in zip(groups, ids, strict=False) if group == own}
    return join_groups(groups, [(group,) if group in nobody else fold(group) for group in groups])


def spelled_alike(groups: Sequence[str], ids: Sequence[str] = ()) -> list[list[str]]:
    """The names of each group that `join_alike` merges, for the report."""
    return joined_names(renamed(groups, join_alike(groups, ids)))


def renamed(groups: Sequence[str], joined: Sequence[str]) -> dict[str, str]:
    """The groups that count as another one: own name -> name after joining."""
    return dict(sorted({(own, whole) for own, whole in zip(groups, joined, strict=True) if own != whole}))


def joined_names(names: Mapping[str, str]) -> list[list[str]]:
    """Of what `renamed` gives, the names of each joined group, for the report."""
    members: dict[str, set[str]] = defaultdict(set)
    for own, whole in names.items():
        members[whole] |= {own, whole}
    return sorted(map(sorted, members.values()))


def split_of(group: str, seed: int, fractions: Mapping[str, float] = FRACTIONS) -> str:
    """The split of a group, from its name and the seed alone.

    So no group changes its split when others are added or taken away, on any machine. Each class is divided by
    `fractions` in expectation: with n groups the share of a split strays by about sqrt(share (1 - share) / n).
    """
    position = int.from_bytes(draw(seed, group)[:8], "big") / 2**64
    for split, bound in zip(fractions, itertools.accumulate(fractions.values()), strict=True):
        if position < bound:
            return split
    return split


def split_by_group(
    groups: Sequence[str],
    labels: Sequence[Hashable],
    seed: int,
    fractions: Mapping[str, float],
) -> dict[str, Int[np.ndarray, "_"]]:
    """Row indices of each split: whole groups only, each class divided by `fractions` of its images.

    Within a class the groups are taken by size, equal sizes in an order drawn from the seed, and each goes to
    the split that lags most behind its share so far. So large groups spread over the splits as small ones do,
    and the shares are right within one group. A class of at least as many groups as splits is present in
    every split.

    Args:
      groups: group of each row. A group with several labels counts as its most frequent one.
      labels: class of each row.
      seed: another seed, another assignment; the same seed gives the same one for any order of the rows.
      fractions: share of each split; they sum to 1.

    Raises:
      ValueError: the fractions are not positive or do not sum to 1, or the lengths differ.
    """
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups but {len(labels)} labels")
    if min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise ValueError(f"the fractions of the splits must be positive and sum to 1, not {dict(fractions)}")
    sizes = Counter(groups)
    split_of: dict[str, str] = {}
    for members in groups_by_class(groups, labels).values():
        members.sort(key=lambda group: (-sizes[group], draw(seed, group)))
        split_of.update(assign(members, sizes, fractions))
    names = np.array([split_of[group] for group in groups])
    return {split: np.flatnonzero(names == split) for split in fractions}


def groups_by_class(groups: Sequence[str], labels: Sequence[Hashable]) -> dict[Hashable, list[str]]:
    votes: dict[str, Counter] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        votes[group][label] += 1
    by_class: dict[Hashable, list[str]] = defaultdict(list)
    for group, counts in votes.items():
        # Ties go by name, not by row order.
        by_class[min(counts, key=lambda label: (-counts[label], str(label)))].append(group)
    return by_class


def draw(seed: int, group: str) -> bytes:
    """Looks random but depends on seed and group only: the same on every machine and version."""
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()


def assign(members: Sequence[str], sizes: Mapping[str, int], fractions: Mapping[str, float]) -> dict[str, str]:
    taken = dict.fromkeys(fractions, 0)
    inside: dict[str, list[str]] = {split: [] for split in fractions}
    total = 0
    for group in members:
        total += sizes[group]
        split = max(fractions, key=lambda name: fractions[name] * total - taken[name])
        taken[split] += sizes[group]
        inside[split].append(group)
    for split in inside:
        richest = max(inside, key=lambda name: len(inside[name]))
        # A rare class must not be missing where it can be had.
        if not inside[split] and len(members) >= len(fractions):
            inside[split].append(inside[richest].pop())
    return {group: split for split, contents in inside.items() for group in contents}
