"""The measures of the official ISIC scorer (ImageMarkup/isic-challenge-scoring) that `evaluate.metrics` has not.

The scorer calls each class by itself, at a probability above 0.5, so that an image may be called for no class or for
several. A measure that is undefined (a class without images, or never called) counts as perfect there, and so it does
here. `auc_sens_80` is the area under that part of the ROC curve where the sensitivity is at least 80 %, which is at
most 1 and for a random classifier 0.18. Balanced accuracy, AUC and AP are those of `evaluate.metrics`.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate.labels import ClassLabels, check_labels_and_probs

MEASURES = ("accuracy", "sensitivity", "specificity", "dice", "ppv", "npv", "auc_sens_80")
LEAST_SENSITIVITY = 0.8


def score_classes(labels: ArrayLike, probs: ArrayLike) -> Mapping[str, Float[np.ndarray, "c"]]:
    """Each of MEASURES for each class; `auc_sens_80` is NaN for a class that no image, or that each image is of.

    Args:
      labels: int [N].
      probs: [N, C].

    Raises ValueError for labels of findings, and as `check_labels_and_probs` does.
    """
    labels, probs = check_labels_and_probs(labels, probs)
    if labels.KIND != ClassLabels.KIND:
        raise ValueError("the ISIC scorer has no measures of findings, of which one image has several")
    truth, called = labels.present, probs > 0.5
    tp, fp = (truth & called).sum(axis=0), (~truth & called).sum(axis=0)
    fn, tn = (truth & ~called).sum(axis=0), (~truth & ~called).sum(axis=0)
    return {
        "accuracy": (tp + tn) / len(labels),
        "sensitivity": _or_perfect(tp, tp + fn),
        "specificity": _or_perfect(tn, tn + fp),
        "dice": _or_perfect(2 * tp, 2 * tp + fp + fn),
        "ppv": _or_perfect(tp, tp + fp),
        "npv": _or_perfect(tn, tn + fn),
        "auc_sens_80": np.array([area_above(truth[:, c], probs[:, c]) for c in range(labels.count)]),
    }


def area_above(labels: ArrayLike, scores: ArrayLike, least: float = LEAST_SENSITIVITY) -> float:
    """Area under the part of the ROC curve with a sensitivity of at least `least`, not rescaled; NaN without a
    positive, or without a negative.

    Args:
      labels: bool [N].
      scores: [N].
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    if labels.all() or not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    # Images with one score are passed together.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    found = np.append(0, np.cumsum(labels[order])[last] / labels.sum())
    alarms = np.append(0, np.cumsum(~labels[order])[last] / (~labels).sum())
    first = int(np.searchsorted(found, least, side="left"))
    # The curve begins at (0, 0), so the point before exists.
    share = (least - found[first - 1]) / (found[first] - found[first - 1])
    start = alarms[first - 1] + share * (alarms[first] - alarms[first - 1])
    xs, ys = np.append(start, alarms[first:]), np.append(least, found[first:])
    return float(np.sum(np.diff(xs) * (ys[1:] + ys[:-1]) / 2))


def _or_perfect(numerator: np.ndarray, denominator: np.ndarray) -> Float[np.ndarray, "c"]:
    return np.divide(numerator, denominator, out=np.ones(len(numerator)), where=denominator > 0)
