"""Metrics of a classifier from labels [N] and probabilities [N, C], or [N]: of class 1 of two.

Conventions, those of the official ISIC scorer where it has one:
  * A row whose maximum is shared by two classes is undecided, which is wrong for every class.
  * A macro mean runs over the classes that occur in the labels; an absent class is NaN in a per-class result.
  * With two classes the average precision is that of class 1 alone, as is usual.
A metric that is undefined on the data (AUROC, average precision with one class in the labels) raises ValueError;
`summary` leaves it out.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate import weighted
from aiseeme_jax.evaluate.bootstrap import bootstrap_ci, difference_ci, interval, resample_weights

__all__ = [
    "METRICS",
    "PER_CLASS",
    "accuracy",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap_ci",
    "confusion",
    "difference_ci",
    "f1",
    "macro_f1",
    "macro_specificity",
    "per_class_auroc",
    "per_class_average_precision",
    "sensitivity",
    "specificity",
    "summary",
]

PER_CLASS: dict[str, Callable] = {
    "auroc": weighted.auroc,
    "average_precision": weighted.average_precision,
    "sensitivity": weighted.sensitivity,
    "specificity": weighted.specificity,
    "f1": weighted.f1,
}


def _measured_by(function: Callable) -> Callable:
    """Gives a metric its form for many weightings, which the bootstrap runs on all resamples at once."""

    def attach(metric: Callable) -> Callable:
        metric.weighted = function
        return metric

    return attach


def _scalar(metric: Callable, labels: ArrayLike, probs: ArrayLike) -> float:
    labels, probs = weighted.checked(labels, probs)
    value = float(metric.weighted(labels, probs, np.ones((1, len(labels))))[0])
    if not np.isfinite(value):
        held = np.unique(labels).tolist()
        raise weighted.Undefined(f"{metric.__name__} is undefined: the labels hold only class {held}")
    return value


def _of_each_class(function: Callable, labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    labels, probs = weighted.checked(labels, probs)
    return function(labels, probs, np.ones((1, len(labels))))[0]


def _one_or_macro(per_class: Float[np.ndarray, "s c"]) -> Float[np.ndarray, "s"]:
    return per_class[:, 1] if per_class.shape[1] == 2 else weighted.macro(per_class)


@_measured_by(lambda *data: weighted.macro(weighted.sensitivity(*data)))
def balanced_accuracy(labels: ArrayLike, probs: ArrayLike) -> float:
    """Mean over classes of recall: the ranking metric of ISIC 2018 task 3 and of ISIC 2019."""
    return _scalar(balanced_accuracy, labels, probs)


@_measured_by(weighted.accuracy)
def accuracy(labels: ArrayLike, probs: ArrayLike) -> float:
    """Share of rows decided for their class."""
    return _scalar(accuracy, labels, probs)


@_measured_by(lambda *data: weighted.macro(weighted.auroc(*data)))
def auroc(labels: ArrayLike, probs: ArrayLike) -> float:
    """Macro mean of the one-vs-rest areas under the ROC curve."""
    return _scalar(auroc, labels, probs)


@_measured_by(lambda *data: _one_or_macro(weighted.average_precision(*data)))
def average_precision(labels: ArrayLike, probs: ArrayLike) -> float:
    """Macro mean of the one-vs-rest average precisions; that of class 1 if there are two classes."""
    return _scalar(average_precision, labels, probs)


@_measured_by(lambda *data: weighted.macro(weighted.specificity(*data)))
def macro_specificity(labels: ArrayLike, probs: ArrayLike) -> float:
    """Mean over classes of the specificity."""
    return _scalar(macro_specificity, labels, probs)


@_measured_by(lambda *data: weighted.macro(weighted.f1(*data)))
def macro_f1(labels: ArrayLike, probs: ArrayLike) -> float:
    """Mean over classes of F1."""
    return _scalar(macro_f1, labels, probs)


METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "balanced_accuracy": balanced_accuracy,
    "auroc": auroc,
    "average_precision": average_precision,
    "macro_f1": macro_f1,
    "macro_specificity": macro_specificity,
    "accuracy": accuracy,
}


def per_class_auroc(labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    """One-vs-rest area under the ROC curve of each class."""
    return _of_each_class(weighted.auroc, labels, probs)


def per_class_average_precision(labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    """One-vs-rest average precision of each class."""
    return _of_each_class(weighted.average_precision, labels, probs)


def sensitivity(labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    """Share of each class's rows decided for it."""
    return _of_each_class(weighted.sensitivity, labels, probs)


def specificity(labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    """For each class, the share of the other classes' rows not decided for it."""
    return _of_each_class(weighted.specificity, labels, probs)


def f1(labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    """Harmonic mean of precision and recall of each class."""
    return _of_each_class(weighted.f1, labels, probs)


def confusion(labels: ArrayLike, probs: ArrayLike) -> Int[np.ndarray, "c c"]:
    """Counts by true class (row) and decision (column). What is undecided is in no column."""
    labels, probs = weighted.checked(labels, probs)
    decided = weighted.decisions(probs)
    counts = np.zeros((probs.shape[1], probs.shape[1]), np.int64)
    np.add.at(counts, (labels[decided >= 0], decided[decided >= 0]), 1)
    return counts


def summary(
    labels: ArrayLike,
    probs: ArrayLike,
    *,
    groups: Sequence | None,
    samples: int,
    seed: int,
    class_names: Sequence[str],
) -> list[dict]:
    """All metrics, then the per-class ones ('auroc/MEL'): {metric, value, low, high} as of `bootstrap_ci`.

    What is undefined on the data is left out; low and high are NaN where there is no interval.
    """
    labels, probs = weighted.checked(labels, probs)
    if len(class_names) != probs.shape[1]:
        raise ValueError(f"{len(class_names)} class names for probs of {probs.shape[1]} classes")
    names = [*METRICS, *(f"{metric}/{name}" for metric in PER_CLASS for name in class_names)]
    values = _all_metrics(labels, probs, np.ones((1, len(labels))))[0]
    blocks = resample_weights(groups, len(labels), samples, seed)
    drawn = np.concatenate([_all_metrics(labels, probs, weights) for weights in blocks])
    rows = []
    for name, value, column in zip(names, values, drawn.T, strict=True):
        if np.isfinite(value):
            low, high = interval(column)
            rows.append({"metric": name, "value": float(value), "low": low, "high": high})
    return rows


def _all_metrics(labels: weighted.Labels, probs: weighted.Probs, weights: weighted.Weights) -> Float[np.ndarray, "s m"]:
    """Columns in the order of METRICS, then PER_CLASS; each per-class quantity is computed once."""
    per_class = {name: function(labels, probs, weights) for name, function in PER_CLASS.items()}
    macro = {
        "balanced_accuracy": weighted.macro(per_class["sensitivity"]),
        "auroc": weighted.macro(per_class["auroc"]),
        "average_precision": _one_or_macro(per_class["average_precision"]),
        "macro_f1": weighted.macro(per_class["f1"]),
        "macro_specificity": weighted.macro(per_class["specificity"]),
        "accuracy": weighted.accuracy(labels, probs, weights),
    }
    return np.column_stack([*(macro[name] for name in METRICS), *per_class.values()])
