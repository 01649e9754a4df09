"""The two kinds of labels, and everything that metrics and protocols do differently for each.

`ClassLabels`: each row has one of C classes. `FindingLabels`: each row has C findings at once, and each finding is
present, absent or not known. Both show the same two tables of rows by classes (or findings), `present` and `known`.
Code that needs only these tables is the same for both kinds. What differs is a method of `Labels`.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate.labels.base import Labels, Regression, balance_values, check_class_weight
from aiseeme_jax.evaluate.labels.classes import ClassLabels
from aiseeme_jax.evaluate.labels.findings import FindingLabels

__all__ = [
    "ClassLabels",
    "FindingLabels",
    "Labels",
    "Regression",
    "balance_values",
    "check_class_weight",
    "check_labels_and_probs",
    "make_labels",
]

# Sums of float32 softmax outputs leave [0, 1] by this much at most.
TOLERANCE = 1e-5


def make_labels(values: ArrayLike, count: int | None = None) -> Labels:
    """Labels of the kind that their shape says: [N] is a class for each row, [N, C] is C findings.

    Args:
      count: number of classes or findings, if it is known.

    Raises ValueError for another shape, for no rows, or as the class of that kind does.
    """
    values = np.asarray(values)
    if values.ndim not in (1, 2) or not len(values):
        raise ValueError(f"labels must be [N] (classes) or [N, C] (findings) with N > 0, got {values.shape}")
    if values.ndim == 1:
        return ClassLabels(values, count)
    if count is not None and values.shape[1] != count:
        raise ValueError(f"labels {values.shape} are of {values.shape[1]} findings, but there are {count}")
    return FindingLabels(values)


def check_labels_and_probs(labels: ArrayLike, probs: ArrayLike) -> tuple[Labels, Float[np.ndarray, "n c"]]:
    """Labels of either kind, and probabilities as float64 [N, C]; [N] means the probability of class 1 of two.

    Raises ValueError that names what is wrong: shapes, a label that cannot be, a probability that is not finite or not
      in [0, 1].
    Rows need not sum to one.
    """
    labels, probs = np.asarray(labels), np.asarray(probs, dtype=np.float64)
    if labels.ndim not in (1, 2) or probs.ndim not in (labels.ndim, 2) or len(labels) != len(probs):
        raise ValueError(
            f"need labels [N] and probs [N] or [N, C], or labels and probs [N, C], got {labels.shape} and {probs.shape}"
        )
    if not len(labels):
        raise ValueError("labels and probs are empty: there is nothing to measure")
    if not np.isfinite(probs).all():
        row = int(np.argwhere(~np.isfinite(probs))[0, 0])
        raise ValueError(f"probs[{row}] is not finite: {probs[row]}")
    if probs.min() < -TOLERANCE or probs.max() > 1 + TOLERANCE:
        raise ValueError(f"probs reach from {probs.min():.4g} to {probs.max():.4g}, outside [0, 1]: pass no logits")
    if probs.ndim == 1:
        probs = np.stack([1 - probs, probs], axis=1)
    if labels.ndim == 1 and probs.shape[1] < 2:
        raise ValueError("probs [N, 1] has one class: pass [N] for the probability of class 1 of two")
    return make_labels(labels, probs.shape[1]), probs
