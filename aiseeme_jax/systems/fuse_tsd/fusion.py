"""Decisions of several ensembles as one: the weighted mean of their probabilities."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from aiseeme_jax.evaluate import metrics

# Weights are multiples of a tenth.
STEPS = 10


def fuse(probs: Sequence[Float[np.ndarray, "n c"]], weights: Sequence[float]) -> Float[np.ndarray, "n c"]:
    """The weighted mean. Weights have sum 1."""
    return np.sum([weight * one for weight, one in zip(weights, probs, strict=True)], axis=0)


def choose_weights(probs: Sequence[Float[np.ndarray, "n c"]], labels: np.ndarray) -> tuple[float, ...]:
    """The weights with the highest AUROC on validation; of equal ones those that are closest to all alike. So are
    they where validation has one class alone, and no AUROC.

    Args:
      probs: of each ensemble, of the validation images.
      labels: of them.
    """
    candidates = [
        tuple(step / STEPS for step in steps)
        for steps in itertools.product(range(STEPS + 1), repeat=len(probs))
        if sum(steps) == STEPS
    ]
    candidates.sort(key=lambda weights: sum(weight**2 for weight in weights))
    if len(np.unique(labels)) < 2:
        return candidates[0]
    # Scores that differ by rounding alone are equal.
    scores = [round(metrics.auroc(labels, fuse(probs, weights)), 12) for weights in candidates]
    return candidates[int(np.argmax(scores))]


def average_pictures(probs: Float[np.ndarray, "m c"], things: np.ndarray, count: int) -> Float[np.ndarray, "n c"]:
    """The mean probabilities of the pictures of each of `count` things; all classes alike for one without pictures.

    Args:
      things: [M] the thing of each picture.
    """
    sums, pictures = np.zeros((count, probs.shape[1])), np.bincount(things, minlength=count)
    np.add.at(sums, things, probs)
    return np.where(pictures[:, None] > 0, sums / np.maximum(pictures, 1)[:, None], 1 / probs.shape[1])
