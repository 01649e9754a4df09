"""What is measured in a subgroup.

Each measure takes weightings of all rows [S, N] and whether a row is of the subgroup, [N] or for each weighting [S, N],
and gives a value for each weighting, NaN where it is undefined (`subgroups.Measure`). What comes before these two are
tables of the rows [N]: whether it is known that a row has the class, whether it has it, its score, or whether it is
called positive.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from aiseeme_jax.evaluate import weighted
from aiseeme_jax.evaluate.labels import Labels, make_labels

Rows = Bool[np.ndarray, "n"]
Inside = Bool[np.ndarray, "*s n"]
Values = Float[np.ndarray, "s"]


def measure_all(
    metric: weighted.Metric, labels: Labels, probs: weighted.Probs, weights: weighted.Weights, inside: Inside
) -> Values:
    """A metric over all classes. A subgroup that lacks one of them has no value: it would be another quantity."""
    if inside.ndim > 1:
        return metric.weighted(labels, probs, weights * inside)
    rows = np.flatnonzero(inside)
    part = make_labels(labels.values[rows], labels.count)
    if len(part.measured) < len(labels.measured):
        return np.full(len(weights), np.nan)
    return metric.weighted(part, probs[rows], weights[:, rows])


def measure_area(
    known: Rows, present: Rows, scores: Float[np.ndarray, "n"], across: bool, weights: weighted.Weights, inside: Inside
) -> Values:
    """The area under the ROC curve, of the positives of a subgroup against its negatives, or against those outside."""
    inside = np.where(present, inside, ~inside) if across else inside
    rows = np.flatnonzero(known & inside) if inside.ndim == 1 else np.flatnonzero(known)
    if not len(rows):
        return np.full(len(weights), np.nan)
    chosen = weights[:, rows] if inside.ndim == 1 else (weights * inside)[:, rows]
    labels = make_labels(present[rows].astype(np.float32)[:, None])
    return weighted.auroc(labels, scores[rows, None], chosen)[:, 0]


def measure_rate(
    name: str,
    known: Rows,
    present: Rows,
    called: Rows,
    prevalence: float,
    weights: weighted.Weights,
    inside: Inside,
) -> Values:
    """Sensitivity, share of false alarms, ppv, or ppv if the class were as frequent in all subgroups.

    A subgroup has another ppv than others if it has the class more often, whatever the classifier does.
    """
    tables = {
        "sensitivity": [present & called, present],
        "false_alarms": [~present & called, ~present],
        "ppv": [present & called, called],
        "ppv_at_one_prevalence": [present & called, present, ~present & called, ~present],
    }[name]
    hits, whole, *alarms = _sum(tables, known, weights, inside)
    if not alarms:
        return _ratio(hits, whole)
    found, false = prevalence * _ratio(hits, whole), (1 - prevalence) * _ratio(*alarms)
    return _ratio(found, found + false)


def measure_excess(
    known: Rows, present: Rows, scores: Float[np.ndarray, "n"], weights: weighted.Weights, inside: Inside
) -> Values:
    """Mean probability less the share of positives: above 0 where a subgroup gets too high probabilities."""
    return _ratio(*_sum([scores - present, np.ones(len(known))], known, weights, inside))


def _sum(
    tables: Sequence[np.ndarray], known: Rows, weights: weighted.Weights, inside: Inside
) -> Float[np.ndarray, "k s"]:
    """Sums [K, S] of tables [N] over the known rows of a subgroup, under each weighting."""
    stacked = np.column_stack([np.asarray(table, np.float64) for table in tables])
    rows = known & (stacked != 0).any(axis=1)
    if inside.ndim == 1:
        rows = np.flatnonzero(rows & inside)
        return (weights[:, rows] @ stacked[rows]).T
    rows = np.flatnonzero(rows)
    return ((weights[:, rows] * inside[:, rows]) @ stacked[rows]).T


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
