"""Confidence intervals by the cluster bootstrap.

Photographs of one lesion, or of one patient, are not independent. So whole groups are drawn, as many as there
are and with replacement, and the interval is the 2.5 and 97.5 percentile of the metric over the resamples
(Efron & Tibshirani 1993; Field & Welsh 2007 for clusters). Equal seed, groups and number of rows mean equal
resamples, whatever is measured on them: the difference of two classifiers on the same rows is therefore a
paired one.

Several runs that differ in the draw of labels or in the seed of training are averaged. Each resample then draws
its runs as well, as many as there are and with replacement, so that the interval covers test images and draws
alike; for a difference both sides draw the same runs. R runs show (R - 1) / R of the variance between draws: of
few the interval is somewhat short, and of one it says nothing about the draws.

A resample may hold no row of a rare class. What is a mean over the classes is undefined there: a mean over the
others would be another quantity. Undefined resamples are left out, and where they are half of all there is no
interval.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate import weighted

Metric = Callable[[ArrayLike, ArrayLike], float]

# Groups a class needs for an interval of its own. Resamples of fewer are nearly all alike, those of one entirely so,
# and their percentiles claim a certainty that nobody has.
MIN_GROUPS = 10

# Entries of one block of weights: 32 MiB of float64.
_BLOCK = 2**22


def bootstrap_ci(
    metric: Metric,
    labels: ArrayLike,
    probs: ArrayLike,
    *,
    groups: Sequence | None,
    samples: int,
    seed: int,
) -> tuple[float, float, float]:
    """The metric on the data as it is, and the 95 % interval of the cluster bootstrap, NaN where there is none.

    Args:
      metric: any function (labels, probs) -> float; the ones of `evaluate.metrics` run on all resamples at
        once. A resample on which it raises ValueError or is not finite is left out.
      groups: [N] lesion or patient of each row; None if every row stands alone.

    Raises ValueError if the metric is undefined on the data itself.
    """
    value = float(metric(labels, probs))
    low, high = interval(resampled(metric, labels, probs, groups=groups, samples=samples, seed=seed))
    return value, low, high


def difference_ci(
    metric: Metric,
    labels: ArrayLike,
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    *,
    groups: Sequence | None,
    samples: int,
    seed: int,
) -> tuple[float, float, float]:
    """Metric of `first` minus that of `second`, each the mean over its runs (seeds), and the paired interval.

    Args:
      first, second: probabilities of one run per entry, all of the same rows; runs in the same place belong together,
        having the same labels and seed.

    Raises ValueError if the metric is undefined on the data itself, or if the runs are not as many.
    """
    drawn = [
        np.subtract(*(resampled(metric, labels, p, groups=groups, samples=samples, seed=seed) for p in pair))
        for pair in zip(first, second, strict=True)
    ]
    value = np.mean([metric(labels, p) for p in first]) - np.mean([metric(labels, p) for p in second])
    low, high = interval(mean_over_runs(drawn, seed))
    return float(value), low, high


def mean_over_runs(drawn: Sequence[Float[np.ndarray, "samples"]], seed: int) -> Float[np.ndarray, "samples"]:
    """In each resample the mean over as many runs as there are, drawn with replacement; one run is taken as it is.

    Args:
      drawn: for each run, its values on the same resamples.
      seed: of the resamples; equal seed and number of runs mean equal draws.
    """
    drawn = np.asarray(drawn)
    # Another stream than that of the groups, which begins with the same seed.
    chosen = np.random.default_rng((seed, 1)).integers(len(drawn), size=drawn.shape)
    return np.take_along_axis(drawn, chosen, axis=0).mean(axis=0)


def resampled(
    metric: Metric,
    labels: ArrayLike,
    probs: ArrayLike,
    *,
    groups: Sequence | None,
    samples: int,
    seed: int,
) -> Float[np.ndarray, "samples"]:
    """The metric on each resample, NaN where it is undefined."""
    fast = getattr(metric, "weighted", None)
    if fast is None:
        labels, probs = np.asarray(labels), np.asarray(probs)
        score = lambda weights: np.array([_plain(metric, labels, probs, row) for row in weights])  # noqa: E731
    else:
        labels, probs = weighted.checked(labels, probs)
        score = lambda weights: fast(labels, probs, weights)  # noqa: E731
    blocks = resample_weights(groups, len(labels), samples, seed)
    return np.concatenate([score(weights) for weights in blocks])


def resample_weights(groups: Sequence | None, rows: int, samples: int, seed: int) -> Iterator[Float[np.ndarray, "s n"]]:
    """How often each row occurs in each resample, in blocks: one weight for all rows of a group.

    Where all rows belong to one group every resample would be the data themselves, and their percentiles a certainty
    that nobody has. The resamples are then empty, so that whatever is measured on them is undefined.
    """
    if samples < 1:
        raise ValueError(f"bootstrap samples must be at least 1, got {samples}")
    members = _group_of_row(groups, rows)
    count = int(members.max()) + 1
    if count < 2:
        yield np.zeros((samples, rows))
        return
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // rows)
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield times[:, members].astype(np.float64)


def interval(values: Float[np.ndarray, "samples"]) -> tuple[float, float]:
    """The 2.5 and 97.5 percentile of the finite values; NaN unless more than half are finite."""
    finite = values[np.isfinite(values)]
    if 2 * len(finite) <= len(values):
        return np.nan, np.nan
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def groups_of_classes(labels: ArrayLike, groups: Sequence | None, classes: int) -> Int[np.ndarray, "classes"]:
    """How many groups hold each class."""
    labels = np.asarray(labels)
    members = _group_of_row(groups, len(labels))
    return np.array([len(np.unique(members[labels == c])) for c in range(classes)])


def _plain(metric: Metric, labels: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> float:
    rows = np.repeat(np.arange(len(labels)), weights.astype(np.int64))
    if not len(rows):
        return np.nan
    try:
        return float(metric(labels[rows], probs[rows]))
    except ValueError:
        return np.nan


def _group_of_row(groups: Sequence | None, rows: int) -> Int[np.ndarray, "n"]:
    """Number of each row's group, in sorted order of the names."""
    if groups is None:
        return np.arange(rows)
    groups = np.asarray(groups)
    if groups.shape != (rows,):
        raise ValueError(f"need one group per row, got groups {groups.shape} for {rows} rows")
    if groups.dtype.kind in "US" and (groups == groups.dtype.type()).any():
        row = int(np.flatnonzero(groups == groups.dtype.type())[0])
        raise ValueError(f"row {row} has an empty group: give an image without a lesion or patient its own name")
    return np.unique(groups, return_inverse=True)[1].reshape(-1)
