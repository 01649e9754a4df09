"""Orders of a few pieces that differ in as many places as possible, for tasks that shuffle (jigsaw, Rubik's cube)."""

import functools
import itertools
import math

import numpy as np
from jaxtyping import Int

from aiseeme_jax.errors import UserError


@functools.lru_cache
def max_hamming(pieces: int, count: int) -> Int[np.ndarray, "count pieces"]:
    """`count` different permutations of `pieces`, far from one another, the first of them the identity.

    Greedy (Noroozi & Favaro, ECCV 2016, algorithm 1): each is the one of greatest mean Hamming distance to those
    before. Where the mean ties, as it does after every Latin square, the greatest distance to the nearest decides, then
    the order of the alphabet, so that the set is the same everywhere and a smaller set is the start of a larger one.
    Nine pieces: the nearest two of 100 permutations differ in 4 places, of 250 and more in 2. Eight: of 100 in 6, of
    1,000 in 4. For nine pieces, 2,000 take some seconds.

    Raises UserError unless 2 <= count <= pieces!.
    """
    if not 2 <= count <= math.factorial(pieces):
        raise UserError(f"{pieces} pieces have 2 to {math.factorial(pieces)} permutations to choose from, not {count}")
    # One row for each place: comparing along a row is what makes 9! of them quick.
    every = np.array(list(itertools.permutations(range(pieces))), np.uint8).T.copy()
    agreements, nearest = np.zeros(every.shape[1], np.int32), np.zeros(every.shape[1], np.int32)
    chosen = [0]
    while len(chosen) < count:
        agree = sum((row == row[chosen[-1]]).astype(np.uint8) for row in every)
        agreements += agree
        np.maximum(nearest, agree, out=nearest)
        agreements[chosen[-1]] = pieces * count
        chosen.append(int(np.argmin((pieces + 1) * agreements + nearest)))
    return every[:, chosen].T.astype(np.int32)
