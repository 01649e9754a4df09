"""Confidence intervals by the cluster bootstrap.

Photographs of one lesion, or of one patient, are not independent. So each resample draws whole groups, as many as there
are, with replacement. The interval is the 2.5 and 97.5 percentile of the metric over the resamples (Efron & Tibshirani
1993; Field & Welsh 2007 for clusters). The same seed, groups and number of rows give the same resamples, whatever is
measured on them. The difference of two classifiers on the same rows is therefore a paired one.

Runs that differ in the draw of labels or in the seed of training are averaged. Each resample then draws runs too, as
many as there are, with replacement, so that the interval covers both the test images and the runs. For a difference,
both sides draw the same runs. R runs show (R - 1) / R of the variance between runs: with few runs the interval is
somewhat too short, and with one run it says nothing about other runs.

A resample may lack a rare class (or a finding). A mean over the classes is undefined there, because a mean over the
other classes is another quantity. Undefined resamples are left out. If they are half of all, there is no interval.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate.labels import check_labels_and_probs
from aiseeme_jax.evaluate.weighted import Metric

AnyMetric = Metric | Callable[[ArrayLike, ArrayLike], float]

# Groups a class needs for an interval of its own. With fewer, nearly all resamples are alike, and their percentiles
# show a certainty that nobody has.
MIN_GROUPS = 10

# Entries of one block of weights: 32 MiB of float64.
_BLOCK = 2**22


def bootstrap_ci(
    metric: AnyMetric,
    labels: ArrayLike,
    probs: ArrayLike,
    *,
    groups: Sequence | None,
    samples: int,
    seed: int,
) -> tuple[float, float, float]:
    """The metric on the data as it is, and the 95 % interval of the cluster bootstrap, NaN where there is none.

    Args:
      metric: any function (labels, probs) -> float; those of `evaluate.metrics` run on all resamples at once. A
        resample on which the metric raises ValueError or is not finite is left out.
      groups: [N] lesion or patient of each row; None if every row is a group of its own.

    Raises ValueError if the metric is undefined on the data itself.
    """
    value = float(metric(labels, probs))
    low, high = interval(resampled(metric, labels, probs, groups=groups, samples=samples, seed=seed))
    return value, low, high


def difference_ci(
    metric: AnyMetric,
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
      first, second: probabilities of one run per entry, all of the same rows. Runs in the same place form a pair: they
        had the same training labels and the same seed.

    Raises ValueError if the metric is undefined on the data itself, or if the numbers of runs differ.
    """
    drawn = [
        np.subtract(*(resampled(metric, labels, p, groups=groups, samples=samples, seed=seed) for p in pair))
        for pair in zip(first, second, strict=True)
    ]
    value = np.mean([metric(labels, p) for p in first]) - np.mean([metric(labels, p) for p in second])
    low, high = interval(mean_over_runs(drawn, seed))
    return float(value), low, high


def mean_over_runs(drawn: Sequence[Float[np.ndarray, "samples"]], seed: int) -> Float[np.ndarray, "samples"]:
    """In each resample, the mean over as many runs as there are, drawn with replacement; one run is taken as it is.

    Args:
      drawn: for each run, its values on the same resamples.
      seed: of the resamples; the same seed and number of runs give the same draws.
    """
    drawn = np.asarray(drawn)
    # Not the stream of the groups, which has the same seed.
    chosen = np.random.default_rng((seed, 1)).integers(len(drawn), size=drawn.shape)
    return np.take_along_axis(drawn, chosen, axis=0).mean(axis=0)


def resampled(
    metric: AnyMetric,
    labels: ArrayLike,
    probs: ArrayLike,
    *,
    groups: Sequence | None,
    samples: int,
    seed: int,
) -> Float[np.ndarray, "samples"]:
    """The metric on each resample, NaN where it is undefined."""
    if isinstance(metric, Metric):
        labels, probs = check_labels_and_probs(labels, probs)
        score = functools.partial(metric.weighted, labels, probs)
    else:
        labels, probs = np.asarray(labels), np.asarray(probs)
        score = functools.partial(_score_rows, metric, labels, probs)
    blocks = resample_weights(groups, len(labels), samples, seed)
    return np.concatenate([score(weights) for weights in blocks])


def resample_weights(groups: Sequence | None, rows: int, samples: int, seed: int) -> Iterator[Float[np.ndarray, "s n"]]:
    """How often each row occurs in each resample, in blocks: one weight for all rows of a group.

    If all rows belong to one group, every resample would be the data themselves. The resamples are then empty, so that
    everything measured on them is undefined and has no interval.
    """
    if samples < 1:
        raise ValueError(f"bootstrap samples must be at least 1, got {samples}")
    members = number_groups(groups, rows)
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


def number_groups(groups: Sequence | None, rows: int) -> Int[np.ndarray, "n"]:
    """Number of each row's group, in sorted order of the names; without groups each row is its own.

    Raises ValueError unless there is one group, with a name, for each row.
    """
    if groups is None:
        return np.arange(rows)
    groups = np.asarray(groups)
    if groups.shape != (rows,):
        raise ValueError(f"need one group per row, got groups {groups.shape} for {rows} rows")
    if groups.dtype.kind in "SUT" and (empty := groups == (b"" if groups.dtype.kind == "S" else "")).any():
        row = int(np.flatnonzero(empty)[0])
        raise ValueError(f"row {row} has an empty group: give an image without a lesion or patient its own name")
    return np.unique(groups, return_inverse=True)[1].reshape(-1)


def _score_rows(
    metric: Callable[[ArrayLike, ArrayLike], float], labels: np.ndarray, probs: np.ndarray, weights: np.ndarray
) -> Float[np.ndarray, "s"]:
    """A metric on the rows of each resample, repeated as often as their weights say."""
    return np.array([_score_resample(metric, labels, probs, row) for row in weights])


def _score_resample(
    metric: Callable[[ArrayLike, ArrayLike], float], labels: np.ndarray, probs: np.ndarray, weights: np.ndarray
) -> float:
    rows = np.repeat(np.arange(len(labels)), weights.astype(np.int64))
    if not len(rows):
        return np.nan
    try:
        return float(metric(labels[rows], probs[rows]))
    except ValueError:
        return np.nan
