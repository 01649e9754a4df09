"""Quality of a classifier per class, for many weightings of the rows at once.

Every function takes labels [N], probabilities [N, C] (both `checked`) and weights [S, N], and returns [S, C]
or [S]. A row of weight k counts as k equal rows, so one call scores S bootstrap resamples. NaN where a
quantity is undefined. A class without a row of positive weight is undefined in all of them, and so is then a
mean over the classes.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

Labels = Int[np.ndarray, "n"]
Probs = Float[np.ndarray, "n c"]
Weights = Float[np.ndarray, "s n"]
PerClass = Float[np.ndarray, "s c"]

# Sums of float32 softmax outputs leave [0, 1] by this much at most.
_TOLERANCE = 1e-5


def checked(labels: ArrayLike, probs: ArrayLike) -> tuple[Labels, Probs]:
    """Labels as int64 [N] and probabilities as float64 [N, C]; [N] means the probability of class 1 of two.

    Raises ValueError naming what is wrong: shapes, a label that is no class, a probability that is not finite
      or not in [0, 1].
    Rows need not sum to one.
    """
    labels, probs = np.asarray(labels), np.asarray(probs, dtype=np.float64)
    if labels.ndim != 1 or probs.ndim not in (1, 2) or len(labels) != len(probs):
        raise ValueError(f"need labels [N] and probs [N] or [N, C], got {labels.shape} and {probs.shape}")
    if not len(labels):
        raise ValueError("labels and probs are empty: there is nothing to measure")
    if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if not np.isfinite(probs).all():
        row = int(np.argwhere(~np.isfinite(probs))[0, 0])
        raise ValueError(f"probs[{row}] is not finite: {probs[row]}")
    if probs.min() < -_TOLERANCE or probs.max() > 1 + _TOLERANCE:
        raise ValueError(f"probs reach from {probs.min():.4g} to {probs.max():.4g}, outside [0, 1]: pass no logits")
    if probs.ndim == 1:
        probs = np.stack([1 - probs, probs], axis=1)
    if probs.shape[1] < 2:
        raise ValueError("probs [N, 1] has one class: pass [N] for the probability of class 1 of two")
    if labels.min() < 0 or labels.max() >= probs.shape[1]:
        raise ValueError(f"labels reach from {labels.min()} to {labels.max()}, but probs has {probs.shape[1]} classes")
    return labels.astype(np.int64), probs


def decisions(probs: Probs) -> Labels:
    """The most probable class of each row, -1 where two or more share the maximum (undecided)."""
    tied = np.sum(probs == probs.max(axis=1, keepdims=True), axis=1) > 1
    return np.where(tied, -1, probs.argmax(axis=1))


def sensitivity(labels: Labels, probs: Probs, weights: Weights) -> PerClass:
    """Recall: the share of a class's rows decided for it."""
    truth, decided = _indicators(labels, probs)
    return _ratio(weights @ (truth & decided), weights @ truth)


def specificity(labels: Labels, probs: Probs, weights: Weights) -> PerClass:
    """The share of the other classes' rows not decided for the class."""
    truth, decided = _indicators(labels, probs)
    values = _ratio(weights @ (~truth & ~decided), weights @ ~truth)
    return np.where(weights @ truth > 0, values, np.nan)


def f1(labels: Labels, probs: Probs, weights: Weights) -> PerClass:
    """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN)."""
    truth, decided = _indicators(labels, probs)
    positives = weights @ truth
    values = _ratio(2 * (weights @ (truth & decided)), positives + weights @ decided)
    return np.where(positives > 0, values, np.nan)


def accuracy(labels: Labels, probs: Probs, weights: Weights) -> Float[np.ndarray, "s"]:
    """The share of rows decided for their class."""
    return _ratio(weights @ (decisions(probs) == labels), weights.sum(axis=1))


def auroc(labels: Labels, probs: Probs, weights: Weights) -> PerClass:
    """One-vs-rest area under the ROC curve: P(positive scores higher) + P(equal) / 2."""
    values = np.full((len(weights), probs.shape[1]), np.nan)
    for c in np.unique(labels):
        positive, scores = labels == c, probs[:, c]
        order = np.flatnonzero(~positive)[np.argsort(scores[~positive], kind="stable")]
        # mass[:, i]: weight of the i lowest negatives.
        mass = np.pad(np.cumsum(weights[:, order], axis=1), ((0, 0), (1, 0)))
        below = mass[:, np.searchsorted(scores[order], scores[positive], side="left")]
        up_to = mass[:, np.searchsorted(scores[order], scores[positive], side="right")]
        won = np.einsum("sp,sp->s", weights[:, positive], below + up_to) / 2
        values[:, c] = _ratio(won, weights[:, positive].sum(axis=1) * mass[:, -1])
    return values


def average_precision(labels: Labels, probs: Probs, weights: Weights) -> PerClass:
    """One-vs-rest average precision, sum over thresholds of (R_n - R_{n-1}) P_n, without interpolation."""
    values = np.full((len(weights), probs.shape[1]), np.nan)
    for c in np.unique(labels):
        order = np.argsort(-probs[:, c], kind="stable")
        # Rows of equal score share one threshold: the end of each run.
        ends = np.append(np.flatnonzero(np.diff(probs[order, c])), len(order) - 1)
        sorted_weights = weights[:, order]
        chosen = np.cumsum(sorted_weights, axis=1)[:, ends]
        hits = np.cumsum(sorted_weights * (labels[order] == c), axis=1)[:, ends]
        precision = hits / np.maximum(chosen, 1e-12)
        found = _ratio(np.sum(np.diff(hits, axis=1, prepend=0) * precision, axis=1), hits[:, -1])
        # Without negatives it is 1 whatever the scores.
        values[:, c] = np.where(weights @ (labels != c) > 0, found, np.nan)
    return values


def macro(per_class: PerClass, labels: Labels) -> Float[np.ndarray, "s"]:
    """Mean over the classes that the labels hold, NaN where one of them is undefined."""
    return per_class[:, np.unique(labels)].mean(axis=1)


def second_or_macro(per_class: PerClass, labels: Labels) -> Float[np.ndarray, "s"]:
    """Of two classes the value of class 1, NaN where the mean is; else the mean."""
    mean = macro(per_class, labels)
    return np.where(np.isfinite(mean), per_class[:, 1], np.nan) if per_class.shape[1] == 2 else mean


def _indicators(labels: Labels, probs: Probs) -> tuple[Bool[np.ndarray, "n c"], Bool[np.ndarray, "n c"]]:
    classes = np.arange(probs.shape[1])
    return labels[:, None] == classes, decisions(probs)[:, None] == classes


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
