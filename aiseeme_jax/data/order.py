"""The order in which training takes images: a pure function of seed and step.

grain is imported when an order is made: to train on images in memory, in an order of one's own, needs none.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from aiseeme_jax import seeds

if TYPE_CHECKING:
    import grain


def order(images: int, *, batch_size: int, seed: int) -> "grain.MapDataset":
    """Indices int [batch_size] of every step, without end, a fresh permutation each epoch."""
    import grain

    indices = grain.MapDataset.range(images).seed(seeds.derive(seed, "order")).shuffle()
    return indices.batch(batch_size, drop_remainder=True).repeat(None)


def endless_permutations(images: int, *, seed: int) -> "grain.MapDataset":
    """Positions 0 … images - 1 without end, each time round in a fresh permutation; nothing is left out."""
    import grain

    return grain.MapDataset.range(images).seed(seed).shuffle().repeat(None)


def cumulated(images: Int[np.ndarray, "k"], shares: Sequence[float]) -> Int[np.ndarray, "sets k"]:
    """How many of the first n images of an endless series belong to each set, for each n of `images`.

    The first set has its share of the n, rounded to the nearest number; the second set its share of those that are
    left, rounded alike, and so on; the last set has the rest. So the numbers sum to n, never fall as n grows, and
    with each image one of them grows by one.

    Args:
      images: n, from 0.
      shares: of the sets; positive, with sum 1.
    """
    counts, rest, left = [], images.astype(np.int64), 1.0
    for share in shares[:-1]:
        counts.append(np.floor(rest * min(share / left, 1.0) + 0.5).astype(np.int64))
        rest, left = rest - counts[-1], left - share
    return np.stack([*counts, rest])


def spread(
    positions: Int[np.ndarray, "k"], shares: Sequence[float]
) -> tuple[Int[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """The set to which each position of an endless series belongs, and its position in that set's own series.

    The sets alternate by their shares, see `cumulated`.
    """
    before = cumulated(positions, shares)
    chosen = np.argmax(cumulated(positions + 1, shares) - before, axis=0)
    return chosen, before[chosen, np.arange(len(positions))]


def endless_batches(
    streams: Sequence["grain.MapDataset"],
    members: Sequence[Int[np.ndarray, "k"]],
    shares: Sequence[float],
    *,
    batch_size: int,
) -> "grain.MapDataset":
    """Indices int [batch_size] of every step, without end, from several sets by their shares, see `spread`.

    Args:
      streams: for each set, the order in which it is gone through, as positions in `members`.
      members: for each set, the indices that belong to it.
      shares: of the sets; positive, with sum 1.
    """
    import grain

    return grain.MapDataset.range(sys.maxsize).map(_Batch(streams, members, tuple(shares), batch_size))


class _Batch:
    """Gives the indices of a step; a class, since it travels to worker processes."""

    def __init__(self, streams, members, shares: tuple[float, ...], batch_size: int):
        self.streams, self.members, self.shares, self.batch_size = streams, members, shares, batch_size

    def __call__(self, step: int) -> Int[np.ndarray, "batch"]:
        positions = int(step) * self.batch_size + np.arange(self.batch_size)
        chosen, places = spread(positions, self.shares)
        pairs = zip(chosen, places, strict=True)
        return np.asarray([self.members[k][self.streams[k][int(place)]] for k, place in pairs], np.int64)
