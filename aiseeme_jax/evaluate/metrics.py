"""Metrics of a classifier from labels and probabilities.

Labels of classes are int [N], with probabilities [N, C], or [N]: of class 1 of two. Labels of findings are float
[N, C], 1 present, 0 absent, NaN not known, with probabilities [N, C].

Of classes, balanced accuracy, AUROC and average precision are those of the official ISIC scorer (balanced multi-class
accuracy, AUC, AP). Sensitivity, specificity, F1 and accuracy are not: the scorer calls each class at a probability
above 0.5; here a row is decided for the one class of highest probability, as in the balanced accuracy.
  * A row in which two classes share the highest probability is undecided: it is wrong for its own class, and no false
    alarm for any other class.
  * A macro mean runs over the classes that occur in the labels; a class that does not occur is NaN in a per-class
    result. A resample that lacks one of those classes has no macro mean.
  * With two classes the average precision is that of class 1 alone, as is usual.
Of findings there are AUROC and average precision, each on the rows in which the finding is known. A macro mean runs
over the findings that are present in some rows and absent in others. There are no decisions, as a finding has no
threshold here: so no accuracy, sensitivity, F1 or confusion.

A metric that is undefined on the data (AUROC, average precision with one class in the labels) raises ValueError;
`summarise` leaves it out.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate import weighted
from aiseeme_jax.evaluate.bootstrap import (
    MIN_GROUPS,
    Draws,
    bootstrap_ci,
    difference_ci,
    draw_weights,
    number_groups,
    split_draws,
)
from aiseeme_jax.evaluate.labels import ClassLabels, check_labels_and_probs, make_labels
from aiseeme_jax.evaluate.scoring import Scoring
from aiseeme_jax.evaluate.weighted import Metric

__all__ = [
    "FURTHER",
    "METRICS",
    "PER_CLASS",
    "Metric",
    "Scores",
    "accuracy",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bootstrap_ci",
    "brier",
    "confusion",
    "difference_ci",
    "f1",
    "kappa",
    "macro_f1",
    "macro_specificity",
    "main_metric",
    "mcc",
    "per_class_auroc",
    "per_class_average_precision",
    "sensitivity",
    "specificity",
    "summarise",
]

# Mean over classes of recall: the ranking metric of ISIC 2018 task 3 and of ISIC 2019.
balanced_accuracy = Metric("balanced_accuracy", "sensitivity", weighted.macro)
# Macro mean of the areas under the ROC curve, of each class against the others or of each finding.
auroc = Metric("auroc", "auroc", weighted.macro)
# Macro mean of the average precisions; that of class 1 if there are two classes.
average_precision = Metric("average_precision", "average_precision", weighted.positive_class_or_macro)
# Mean over classes of F1.
macro_f1 = Metric("macro_f1", "f1", weighted.macro)
# Mean over classes of the specificity.
macro_specificity = Metric("macro_specificity", "specificity", weighted.macro)
# Share of rows decided for their class.
accuracy = Metric("accuracy", "accuracy", weighted.as_it_is)
# Agreement of decision and truth beyond chance.
kappa = Metric("kappa", "kappa", weighted.as_it_is)
mcc = Metric("mcc", "mcc", weighted.as_it_is)
# Squared error of the probabilities: of class 1 of two, summed over more classes (Brier 1950), the mean over findings.
brier = Metric("brier", "brier", weighted.positive_class_or_sum)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (balanced_accuracy, auroc, average_precision, macro_f1, macro_specificity, accuracy)
}
# Those that `results.csv` leaves out and the command `metrics` shows. A search is not led by them.
FURTHER: dict[str, Metric] = {metric.name: metric for metric in (kappa, mcc, brier)}

# Metrics that exist for each class, or some of them for each finding.
PER_CLASS = ClassLabels.PER_CLASS


def main_metric(labels: ArrayLike) -> Metric:
    """The metric by which k, C and epoch are chosen: of classes the balanced accuracy, of findings the macro AUROC."""
    return METRICS[make_labels(labels).CHOSEN_BY]


def per_class_auroc(labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    """Area under the ROC curve of each class against the others, or of each finding."""
    return _of_each_class("auroc", labels, probs)


def per_class_average_precision(labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    """Average precision of each class against the others, or of each finding."""
    return _of_each_class("average_precision", labels, probs)


def sensitivity(labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    """Share of each class's rows decided for it."""
    return _of_each_class("sensitivity", labels, probs)


def specificity(labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    """For each class, the share of the other classes' rows not decided for it."""
    return _of_each_class("specificity", labels, probs)


def f1(labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    """Harmonic mean of precision and recall of each class."""
    return _of_each_class("f1", labels, probs)


def confusion(labels: ArrayLike, probs: ArrayLike) -> Int[np.ndarray, "c c"]:
    """Counts by true class (row) and decision (column). An undecided row is in no column.

    Raises ValueError for labels of findings.
    """
    labels, probs = check_labels_and_probs(labels, probs)
    weighted.check_exists("confusion", labels, ("confusion",) if labels.KIND == "class" else labels.METRICS)
    decided = weighted.decisions(probs)
    counts = np.zeros((probs.shape[1], probs.shape[1]), np.int64)
    np.add.at(counts, (labels.values[decided >= 0], decided[decided >= 0]), 1)
    return counts


def _of_each_class(name: str, labels: ArrayLike, probs: ArrayLike) -> Float[np.ndarray, "c"]:
    labels, probs = check_labels_and_probs(labels, probs)
    weighted.check_exists(name, labels, labels.PER_CLASS)
    return weighted.QUANTITIES[name](labels, probs, np.ones((1, len(labels))))[0]


class Scores(Scoring):
    """Metrics on everything that their intervals are made of. What metrics share is computed once, when first needed.

    Args:
      labels, probs: as everywhere here.
      groups, samples, seed: of the resamples, as of `bootstrap_ci`.
      class_names: [C], of the classes or findings.
    """

    def __init__(
        self,
        labels: ArrayLike,
        probs: ArrayLike,
        *,
        groups: Sequence | None,
        samples: int,
        seed: int,
        class_names: Sequence[str],
    ):
        self.labels, self.probs = check_labels_and_probs(labels, probs)
        if len(class_names) != self.probs.shape[1]:
            raise ValueError(f"{len(class_names)} class names for probs of {self.probs.shape[1]} classes")
        self.kind, self.metrics, self.per_class = self.labels.KIND, self.labels.METRICS, self.labels.PER_CLASS
        self.classes = {name: place for place, name in enumerate(class_names)}
        self.groups, self.samples, self.seed = groups, samples, seed
        self._known: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def names(self, further: bool = False) -> list[str]:
        """Every metric that exists for these labels, then those of each class ('auroc/MEL')."""
        whole, per_class = self.metrics, self.per_class
        if further:
            whole, per_class = (*whole, *self.labels.FURTHER), (*per_class, *self.labels.FURTHER_PER_CLASS)
        return [*whole, *(f"{name}/{of}" for name in per_class for of in self.classes)]

    def class_of(self, name: str) -> int | None:
        """The one class or finding that a metric is about, None if it is about all."""
        # A name of a class may contain anything, a slash too.
        metric, slash, of_class = name.partition("/")
        if slash:
            return self.classes[of_class]
        return self.labels.positive_class if metric == average_precision.name else None

    def value(self, name: str) -> float:
        metric = METRICS[name]
        value = float(metric.weighted(self.labels, self.probs, np.ones((1, len(self))))[0])
        if not np.isfinite(value):
            raise ValueError(f"{name} is undefined: {self.labels.describe_undefined()}")
        return value

    def of(self, name: str) -> Draws:
        """A metric ('auroc'), or that of one class ('auroc/MEL')."""
        quantity, slash, of_class = name.partition("/")
        if slash:
            return split_draws(self._quantity(quantity)[:, self.classes[of_class]], self.samples)
        weighted.check_exists(name, self.labels, (*self.labels.METRICS, *self.labels.FURTHER))
        metric = (METRICS | FURTHER)[name]
        return split_draws(metric.reduce(self._quantity(metric.quantity), self.labels), self.samples)

    def has_interval(self, name: str) -> bool:
        """Of a class or finding: whether at least MIN_GROUPS groups stand behind it."""
        of_class = self.class_of(name)
        return of_class is None or self._held[of_class] >= MIN_GROUPS

    def count_groups(self) -> dict[str, int]:
        return {name: int(self._held[place]) for name, place in self.classes.items()}

    @functools.cached_property
    def _held(self) -> Int[np.ndarray, "c"]:
        return self.labels.groups_for_interval(number_groups(self.groups, len(self)))

    def _quantity(self, name: str) -> np.ndarray:
        if name not in self._known:
            measure = weighted.QUANTITIES[name]
            weights = draw_weights(self.groups, len(self), self.samples, self.seed)
            self._known[name] = np.concatenate([measure(self.labels, self.probs, w) for w in weights])
        return self._known[name]


def summarise(
    labels: ArrayLike,
    probs: ArrayLike,
    *,
    groups: Sequence | None,
    samples: int,
    seed: int,
    class_names: Sequence[str],
    further: bool = False,
) -> list[dict]:
    """All metrics, then those of each class or finding ('auroc/MEL'): {metric, value, low, high} as of `bootstrap_ci`.

    What is undefined on the data is left out. Low and high are NaN where there is no interval: for a class that fewer
    than MIN_GROUPS groups hold, for a finding that is present, or absent, in fewer than MIN_GROUPS groups, and where
    all resamples are 0 or all are 1.

    Args:
      further: with the metrics that `results.csv` leaves out.
    """
    scores = Scores(labels, probs, groups=groups, samples=samples, seed=seed, class_names=class_names)
    return scores.summarise(further)
