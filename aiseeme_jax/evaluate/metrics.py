"""Metrics of a classifier from labels [N] and probabilities [N, C], or [N]: of class 1 of two.

Balanced accuracy, AUROC and average precision are those of the official ISIC scorer (balanced multi-class accuracy,
AUC, AP). Sensitivity, specificity, F1 and accuracy are not: it calls each class at a probability above 0.5, here the
one class of highest probability is decided for, as in the balanced accuracy.
  * A row whose maximum is shared by two classes is undecided: wrong for its class, no false alarm for any other.
  * A macro mean runs over the classes that occur in the labels; an absent class is NaN in a per-class result. A
    resample that lacks one of those classes has no macro mean.
  * With two classes the average precision is that of class 1 alone, as is usual.
A metric that is undefined on the data (AUROC, average precision with one class in the labels) raises ValueError;
`summary` leaves it out.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate import weighted
from aiseeme_jax.evaluate.bootstrap import (
    MIN_GROUPS,
    bootstrap_ci,
    difference_ci,
    groups_of_classes,
    interval,
    resample_weights,
)

__all__ = [
    "METRICS",
    "PER_CLASS",
    "Scores",
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
    "resampled_scores",
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


# What the metrics are made of, each computed once however many of them want it.
_QUANTITIES: dict[str, Callable] = {**PER_CLASS, "accuracy": weighted.accuracy}


def _made_of(quantity: str, reduce: Callable) -> Callable:
    """Gives a metric its form for many weightings, which the bootstrap runs on all resamples at once.

    Args:
      quantity: in `_QUANTITIES`.
      reduce: its values and the labels -> [S].
    """

    def attach(metric: Callable) -> Callable:
        metric.quantity, metric.reduce = quantity, reduce
        metric.weighted = lambda labels, *data: reduce(_QUANTITIES[quantity](labels, *data), labels)
        return metric

    return attach


def _scalar(metric: Callable, labels: ArrayLike, probs: ArrayLike) -> float:
    labels, probs = weighted.checked(labels, probs)
    value = float(metric.weighted(labels, probs, np.ones((1, len(labels))))[0])
    if not np.isfinite(value):
        raise ValueError(f"{metric.__name__} is undefined: the labels hold only class {np.unique(labels).tolist()}")
    return value


def _of_each_class(function: Callable, labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    labels, probs = weighted.checked(labels, probs)
    return function(labels, probs, np.ones((1, len(labels))))[0]


@_made_of("sensitivity", weighted.macro)
def balanced_accuracy(labels: ArrayLike, probs: ArrayLike) -> float:
    """Mean over classes of recall: the ranking metric of ISIC 2018 task 3 and of ISIC 2019."""
    return _scalar(balanced_accuracy, labels, probs)


@_made_of("accuracy", lambda values, labels: values)
def accuracy(labels: ArrayLike, probs: ArrayLike) -> float:
    """Share of rows decided for their class."""
    return _scalar(accuracy, labels, probs)


@_made_of("auroc", weighted.macro)
def auroc(labels: ArrayLike, probs: ArrayLike) -> float:
    """Macro mean of the one-vs-rest areas under the ROC curve."""
    return _scalar(auroc, labels, probs)


@_made_of("average_precision", weighted.second_or_macro)
def average_precision(labels: ArrayLike, probs: ArrayLike) -> float:
    """Macro mean of the one-vs-rest average precisions; that of class 1 if there are two classes."""
    return _scalar(average_precision, labels, probs)


@_made_of("specificity", weighted.macro)
def macro_specificity(labels: ArrayLike, probs: ArrayLike) -> float:
    """Mean over classes of the specificity."""
    return _scalar(macro_specificity, labels, probs)


@_made_of("f1", weighted.macro)
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


class Scores:
    """Metrics under many weightings of the rows; what several are made of is computed once, when it is first wanted.

    Args:
      labels, probs: as everywhere here.
      class_names: [C].
      blocks: gives weights [s, N] in blocks, each time it is called.
    """

    def __init__(
        self,
        labels: ArrayLike,
        probs: ArrayLike,
        class_names: Sequence[str],
        blocks: Callable[[], Iterable[weighted.Weights]],
    ):
        self.labels, self.probs = weighted.checked(labels, probs)
        if len(class_names) != self.probs.shape[1]:
            raise ValueError(f"{len(class_names)} class names for probs of {self.probs.shape[1]} classes")
        self.classes = {name: place for place, name in enumerate(class_names)}
        self._blocks = blocks
        self._known: dict[str, np.ndarray] = {}

    def of(self, name: str) -> Float[np.ndarray, "s"]:
        """A metric ('auroc'), or that of one class ('auroc/MEL'), under each weighting; NaN where undefined."""
        quantity, _, of_class = name.partition("/")
        if of_class:
            return self._quantity(quantity)[:, self.classes[of_class]]
        metric = METRICS[name]
        return metric.reduce(self._quantity(metric.quantity), self.labels)

    def _quantity(self, name: str) -> np.ndarray:
        if name not in self._known:
            measure = _QUANTITIES[name]
            self._known[name] = np.concatenate([measure(self.labels, self.probs, w) for w in self._blocks()])
        return self._known[name]


def resampled_scores(
    labels: ArrayLike,
    probs: ArrayLike,
    *,
    groups: Sequence | None,
    samples: int,
    seed: int,
    class_names: Sequence[str],
) -> Scores:
    """The metrics on each resample of the cluster bootstrap."""
    return Scores(labels, probs, class_names, lambda: resample_weights(groups, len(labels), samples, seed))


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

    What is undefined on the data is left out; low and high are NaN where there is no interval: for a class that fewer
    than MIN_GROUPS groups hold, and where all resamples are 0 or all are 1.
    """
    drawn = resampled_scores(labels, probs, groups=groups, samples=samples, seed=seed, class_names=class_names)
    as_it_is = Scores(labels, probs, class_names, lambda: [np.ones((1, len(labels)))])
    held = groups_of_classes(labels, groups, len(class_names))
    rows = []
    for name in [*METRICS, *(f"{metric}/{name}" for metric in PER_CLASS for name in class_names)]:
        value = float(as_it_is.of(name)[0])
        if np.isfinite(value):
            of_class = _class_of(name, class_names)
            enough = of_class is None or held[of_class] >= MIN_GROUPS
            low, high = _interval(drawn.of(name)) if enough else (np.nan, np.nan)
            rows.append({"metric": name, "value": value, "low": low, "high": high})
    return rows


def _interval(values: Float[np.ndarray, "samples"]) -> tuple[float, float]:
    low, high = interval(values)
    # None of 20 lesions found may still be a sixth of all: where no resample leaves the end of the range, they cannot
    # say how far the truth does.
    return (np.nan, np.nan) if low == high and low in (0, 1) else (low, high)


def _class_of(name: str, class_names: Sequence[str]) -> int | None:
    """The one class that a metric is about, if it is about one."""
    if name == "average_precision" and len(class_names) == 2:
        return 1
    of_class = name.partition("/")[2]
    return list(class_names).index(of_class) if of_class else None
