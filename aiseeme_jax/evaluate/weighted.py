"""Quality of a classifier per class or finding, for many weightings of the rows at once.

Every quantity takes labels of N rows, probabilities [N, C] (both from `check_labels_and_probs`) and weights [S, N].
It returns [S, C] or [S]. A row of weight k counts as k equal rows, so one call scores S bootstrap resamples. A value is
NaN where a quantity is undefined. A class without a row of positive weight is undefined in all quantities but `brier`,
and then a mean over the classes is undefined too. Rows in which a finding is not known do not count for that finding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate.labels import ClassLabels, Labels, check_labels_and_probs

Probs = Float[np.ndarray, "n c"]
Weights = Float[np.ndarray, "s n"]
PerClass = Float[np.ndarray, "s c"]


def decisions(probs: Probs) -> Int[np.ndarray, "n"]:
    """The most probable class of each row, -1 where two or more share the maximum (undecided)."""
    tied = np.sum(probs == probs.max(axis=1, keepdims=True), axis=1) > 1
    return np.where(tied, -1, probs.argmax(axis=1))


def sensitivity(labels: ClassLabels, probs: Probs, weights: Weights) -> PerClass:
    """Recall: the share of a class's rows decided for it."""
    truth, decided = labels.present, _decided(probs)
    return _ratio(weights @ (truth & decided), weights @ truth)


def specificity(labels: ClassLabels, probs: Probs, weights: Weights) -> PerClass:
    """The share of the other classes' rows not decided for the class."""
    truth, decided = labels.present, _decided(probs)
    values = _ratio(weights @ (~truth & ~decided), weights @ ~truth)
    return np.where(weights @ truth > 0, values, np.nan)


def f1(labels: ClassLabels, probs: Probs, weights: Weights) -> PerClass:
    """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN)."""
    truth, decided = labels.present, _decided(probs)
    positives = weights @ truth
    values = _ratio(2 * (weights @ (truth & decided)), positives + weights @ decided)
    return np.where(positives > 0, values, np.nan)


def accuracy(labels: ClassLabels, probs: Probs, weights: Weights) -> Float[np.ndarray, "s"]:
    """The share of rows decided for their class."""
    return _ratio(weights @ (decisions(probs) == labels.values), weights.sum(axis=1))


def ppv(labels: ClassLabels, probs: Probs, weights: Weights) -> PerClass:
    """Positive predictive value, or precision: the share of the rows decided for a class that are of it."""
    truth, decided = labels.present, _decided(probs)
    values = _ratio(weights @ (truth & decided), weights @ decided)
    return np.where(weights @ truth > 0, values, np.nan)


def npv(labels: ClassLabels, probs: Probs, weights: Weights) -> PerClass:
    """Negative predictive value: the share of the rows not decided for a class that are not of it."""
    truth, decided = labels.present, _decided(probs)
    values = _ratio(weights @ (~truth & ~decided), weights @ ~decided)
    return np.where(weights @ truth > 0, values, np.nan)


def kappa(labels: ClassLabels, probs: Probs, weights: Weights) -> Float[np.ndarray, "s"]:
    """Cohen's kappa of decision and truth: (observed - expected) / (1 - expected) agreement (Cohen 1960)."""
    truth, decided, total = _shares(labels, probs, weights)
    expected = np.sum(truth * decided, axis=1)
    return _ratio(accuracy(labels, probs, weights) - expected, np.where(total > 0, 1 - expected, 0))


def mcc(labels: ClassLabels, probs: Probs, weights: Weights) -> Float[np.ndarray, "s"]:
    """Matthews correlation of decision and truth, for any number of classes (Gorodkin 2004, eq. 8)."""
    truth, decided, _ = _shares(labels, probs, weights)
    undecided = 1 - decided.sum(axis=1)
    spread = (1 - np.sum(truth**2, axis=1)) * (1 - np.sum(decided**2, axis=1) - undecided**2)
    # Shares of all rows that are a rounding error away from 1 have no spread.
    spread = np.where(spread > 1e-12, spread, 0)
    return _ratio(accuracy(labels, probs, weights) - np.sum(truth * decided, axis=1), np.sqrt(spread))


def brier(labels: Labels, probs: Probs, weights: Weights) -> PerClass:
    """Mean squared error of the probability of each class against the others, or of each finding where it is known."""
    error = np.where(labels.known, (probs - labels.present) ** 2, 0.0)
    return _ratio(weights @ error, weights @ labels.known)


def auroc(labels: Labels, probs: Probs, weights: Weights) -> PerClass:
    """Area under the ROC curve of each class against the others, or of each finding: P(positive scores higher) +
    P(equal) / 2.
    """
    values = np.full((len(weights), probs.shape[1]), np.nan)
    for c in labels.measured:
        positives, negatives = (np.flatnonzero(table[:, c]) for table in (labels.present, labels.absent))
        scores = probs[:, c]
        order = negatives[np.argsort(scores[negatives], kind="stable")]
        # mass[:, i]: weight of the i lowest negatives.
        mass = np.zeros((len(weights), len(order) + 1))
        np.cumsum(_columns(weights, order), axis=1, out=mass[:, 1:])
        below = _columns(mass, np.searchsorted(scores[order], scores[positives], side="left"))
        up_to = _columns(mass, np.searchsorted(scores[order], scores[positives], side="right"))
        of_positives = _columns(weights, positives)
        won = np.einsum("sp,sp->s", of_positives, below + up_to) / 2
        values[:, c] = _ratio(won, of_positives.sum(axis=1) * mass[:, -1])
    return values


def average_precision(labels: Labels, probs: Probs, weights: Weights) -> PerClass:
    """Average precision of each class against the others, or of each finding: the sum over thresholds of
    (R_n - R_{n-1}) P_n, without interpolation.
    """
    values = np.full((len(weights), probs.shape[1]), np.nan)
    for c in labels.measured:
        rows = np.flatnonzero(labels.known[:, c])
        order = rows[np.argsort(-probs[rows, c], kind="stable")]
        positives = np.flatnonzero(labels.present[order, c])
        # Recall grows at positives alone. Rows of equal score share one threshold: the last of them.
        last = np.searchsorted(-probs[order, c], -probs[order[positives], c], side="right") - 1
        chosen = _columns(np.cumsum(_columns(weights, order), axis=1), last)
        gained = _columns(weights, order[positives])
        hits = _columns(np.cumsum(gained, axis=1), np.searchsorted(positives, last, side="right") - 1)
        found = _ratio(np.sum(gained * hits / np.maximum(chosen, 1e-12), axis=1), gained.sum(axis=1))
        # Without negatives it is 1 whatever the scores.
        values[:, c] = np.where(weights @ labels.absent[:, c] > 0, found, np.nan)
    return values


QUANTITIES: Mapping[str, Callable[[Labels, Probs, Weights], np.ndarray]] = MappingProxyType(
    {
        "auroc": auroc,
        "average_precision": average_precision,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": f1,
        "accuracy": accuracy,
        "ppv": ppv,
        "npv": npv,
        "kappa": kappa,
        "mcc": mcc,
        "brier": brier,
    }
)


def as_it_is(values: Float[np.ndarray, "s"], labels: Labels) -> Float[np.ndarray, "s"]:
    """Of a quantity that has no classes."""
    return values


def macro(values: PerClass, labels: Labels) -> Float[np.ndarray, "s"]:
    """Mean over the classes that occur, or the findings that are present in some rows and absent in others; NaN where
    one of them is undefined.
    """
    return values[:, labels.measured].mean(axis=1) if len(labels.measured) else np.full(len(values), np.nan)


def positive_class_or_macro(values: PerClass, labels: Labels) -> Float[np.ndarray, "s"]:
    """Of two classes the value of class 1, NaN where the mean is; else the mean."""
    mean = macro(values, labels)
    if labels.positive_class is None:
        return mean
    return np.where(np.isfinite(mean), values[:, labels.positive_class], np.nan)


def positive_class_or_sum(values: PerClass, labels: Labels) -> Float[np.ndarray, "s"]:
    """Of two classes the value of class 1; of more the sum over all classes; of findings the mean over those that are
    present in some rows and absent in others.
    """
    if labels.positive_class is not None:
        return values[:, labels.positive_class]
    return values.sum(axis=1) if labels.KIND == ClassLabels.KIND else macro(values, labels)


@dataclass(frozen=True)
class Metric:
    """A number that says how good probabilities are. Called with labels and probabilities, it gives a float.

    Attributes:
      name: in tables of results.
      quantity: name in `QUANTITIES` of what it is made of. Metrics of one quantity share its computation.
      reduce: values of the quantity, labels -> one value for each weighting.
    """

    name: str
    quantity: str
    reduce: Callable[[np.ndarray, Labels], Float[np.ndarray, "s"]]

    def __call__(self, labels: ArrayLike, probs: ArrayLike) -> float:
        """The metric of labels and probabilities.

        Args:
          labels: int [N], a class for each row; or float [N, C], 1, 0 or NaN (not known) for each finding.
          probs: [N, C]; of two classes also [N], the probability of class 1.

        Raises ValueError for labels and probabilities that do not fit together, where the metric is undefined on them,
        or if it does not exist for labels of that kind.
        """
        labels, probs = check_labels_and_probs(labels, probs)
        value = float(self.weighted(labels, probs, np.ones((1, len(labels))))[0])
        if not np.isfinite(value):
            raise ValueError(f"{self.name} is undefined: {labels.describe_undefined()}")
        return value

    def weighted(self, labels: Labels, probs: Probs, weights: Weights) -> Float[np.ndarray, "s"]:
        """The metric under each weighting of the rows, NaN where it is undefined.

        Raises ValueError if the metric does not exist for labels of that kind.
        """
        check_exists(self.name, labels, (*labels.METRICS, *labels.FURTHER))
        return self.reduce(QUANTITIES[self.quantity](labels, probs, weights), labels)


def check_exists(name: str, labels: Labels, known: tuple[str, ...]) -> None:
    """Raises ValueError for a metric that does not exist for labels of a kind, of which there are those `known`."""
    if name not in known:
        raise ValueError(
            f"there is no {name} of labels of the kind '{labels.KIND}' {labels.present.shape}: "
            f"there are {', '.join(known)}"
        )


def _decided(probs: Probs) -> np.ndarray:
    """Whether a row is decided for a class, [N, C]."""
    return decisions(probs)[:, None] == np.arange(probs.shape[1])


def _shares(labels: ClassLabels, probs: Probs, weights: Weights) -> tuple[PerClass, PerClass, Float[np.ndarray, "s"]]:
    """The shares of the rows of each class, and decided for each class, and the weight of all rows."""
    total = weights.sum(axis=1)
    whole = np.maximum(total, 1e-12)[:, None]
    return weights @ labels.present / whole, weights @ _decided(probs) / whole, total


def _columns(table: Float[np.ndarray, "s n"], places: Int[np.ndarray, "k"]) -> Float[np.ndarray, "s k"]:
    """Some columns, row by row in memory, where `table[:, places]` has them column by column, which is slow to sum."""
    return np.take(table, places, axis=1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
