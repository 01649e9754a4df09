"""Confidence intervals by the cluster bootstrap.

Photographs of one lesion, or of one patient, are not independent. So each resample draws whole groups, as many as there
are, with replacement (Field & Welsh 2007). The same seed, groups and number of rows give the same resamples, whatever
is measured on them. The difference of two classifiers on the same rows is therefore a paired one.

The interval lies between two percentiles of the metric over the resamples. The 2.5 and 97.5 percentile are too close to
each other if there are few groups, or few groups of one class (Hesterberg 2015). So the levels are

    Phi(-w / (1 + a w)) and Phi(w / (1 - a w)),  w = t_0.975(G - 1) max(1, jackknife / spread)

with G groups, the standard error of the jackknife, and that of the resamples (spread). a is the acceleration (Efron &
Tibshirani 1993, eq. 14.15): a score near 1 has its longer side below. These are the levels of BCa without its
correction of the bias, and with a width for small samples. `results/coverage.md` has the measured coverage of this
interval and of others.

The jackknife leaves out one group at a time, or one of MAX_PARTS parts of the groups. Its standard error is seldom too
small (Efron & Stein 1981).

Runs that differ in the draw of labels or in the seed of training are averaged. Each resample then draws runs too, as
many as there are, with replacement, so that the interval covers both the test images and the runs. For a difference,
both sides draw the same runs. The variance between R runs over R joins that of the jackknife. With few runs the
interval is still somewhat too short, and with one run it says nothing about other runs.

A resample may lack a rare class (or a finding). A mean over the classes is undefined there, because a mean over the
other classes is another quantity. Undefined resamples are left out. If they are half of all, there is no interval.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import special

from aiseeme_jax.evaluate.labels import check_labels_and_probs
from aiseeme_jax.evaluate.weighted import Metric

AnyMetric = Metric | Callable[[ArrayLike, ArrayLike], float]

# Groups a class needs for an interval of its own. With fewer, nearly all resamples are alike, and their percentiles
# show a certainty that nobody has.
MIN_GROUPS = 10

# Parts of the groups that the jackknife leaves out, one after the other, if there are more groups than that.
MAX_PARTS = 500

# Entries of one block of weights: 32 MiB of float64.
_BLOCK = 2**22


@dataclass(frozen=True)
class Draws:
    """A metric on the data as they are, without each part of the groups, and on each resample; NaN where undefined."""

    value: float
    without: Float[np.ndarray, "parts"]
    resampled: Float[np.ndarray, "samples"]

    def __sub__(self, other: "Draws") -> "Draws":
        """The difference of two metrics, or of two classifiers, on the same rows, groups and resamples."""
        return Draws(self.value - other.value, self.without - other.without, self.resampled - other.resampled)


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
    return value, *interval([draw(metric, labels, probs, groups=groups, samples=samples, seed=seed)], seed)


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
    drawn = []
    for pair in zip(first, second, strict=True):
        one, other = (draw(metric, labels, p, groups=groups, samples=samples, seed=seed) for p in pair)
        drawn.append(one - other)
    value = np.mean([metric(labels, p) for p in first]) - np.mean([metric(labels, p) for p in second])
    return float(value), *interval(drawn, seed)


def interval(runs: Sequence[Draws], seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean over runs; NaN unless more than half of the resamples are defined.

    Args:
      runs: of each run its draws, all on the same rows, groups and resamples.
      seed: of the resamples; the same seed and number of runs give the same draws of runs.
    """
    values = mean_over_runs([run.resampled for run in runs], seed)
    finite = values[np.isfinite(values)]
    if 2 * len(finite) <= len(values):
        return np.nan, np.nan
    low, high = np.percentile(finite, 100 * interval_levels(runs, float(finite.std())))
    return float(low), float(high)


def interval_levels(runs: Sequence[Draws], spread: float) -> Float[np.ndarray, "2"]:
    """The two levels, as at the top of this file, of the resamples that the interval lies between.

    Args:
      runs: as of `interval`.
      spread: standard deviation of the mean over runs, over the resamples.
    """
    without = np.mean([run.without for run in runs], axis=0)
    left = without[np.isfinite(without)]
    if len(left) < 2:
        return np.array([0.025, 0.975])
    deviations = left.mean() - left
    # Efron & Tibshirani 1993, eq. 11.5.
    variance = jackknife = (len(left) - 1) / len(left) * np.sum(deviations**2)
    if len(runs) > 1:
        variance += np.var([run.value for run in runs], ddof=1) / len(runs)
    width, acceleration = special.stdtrit(len(left) - 1, 0.975), 0.0
    if spread > 0 and jackknife > 0:
        width *= max(1.0, np.sqrt(variance) / spread)
        acceleration = np.sum(deviations**3) / (6 * np.sum(deviations**2) ** 1.5)
        # The variance between runs has no skewness.
        acceleration *= (jackknife / variance) ** 1.5
        acceleration = np.clip(acceleration, -0.5 / width, 0.5 / width)
    ends = np.array([-width, width])
    return special.ndtr(ends / (1 - acceleration * ends))


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


def draw(
    metric: AnyMetric,
    labels: ArrayLike,
    probs: ArrayLike,
    *,
    groups: Sequence | None,
    samples: int,
    seed: int,
) -> Draws:
    """A metric on everything that its interval is made of."""
    if isinstance(metric, Metric):
        labels, probs = check_labels_and_probs(labels, probs)
        score = functools.partial(metric.weighted, labels, probs)
    else:
        labels, probs = np.asarray(labels), np.asarray(probs)
        score = functools.partial(_score_rows, metric, labels, probs)
    return split_draws(np.concatenate([score(w) for w in draw_weights(groups, len(labels), samples, seed)]), samples)


def split_draws(values: Float[np.ndarray, "s"], samples: int) -> Draws:
    """The values of a metric under the weights of `draw_weights`."""
    return Draws(float(values[0]), values[1:-samples], values[-samples:])


def draw_weights(groups: Sequence | None, rows: int, samples: int, seed: int) -> Iterator[Float[np.ndarray, "s n"]]:
    """How often each row occurs in the data as they are, without each part of the groups, and in each resample.

    They come in blocks, with one weight for all rows of a group. If all rows belong to one group, every resample would
    be the data themselves. The resamples are then empty, so that everything measured on them is undefined and has no
    interval.
    """
    if samples < 1:
        raise ValueError(f"bootstrap samples must be at least 1, got {samples}")
    members = number_groups(groups, rows)
    count = int(members.max()) + 1
    yield np.ones((1, rows))
    if count < 2:
        yield np.zeros((samples, rows))
        return
    block = max(1, _BLOCK // rows)
    yield from _leave_out(members, count, block, seed)
    rng = np.random.default_rng(seed)
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        # Row by row in memory, as metrics read it.
        yield np.take(times, members, axis=1).astype(np.float64)


def _leave_out(members: Int[np.ndarray, "n"], count: int, block: int, seed: int) -> Iterator[Float[np.ndarray, "s n"]]:
    """Weights 0 for the rows of one part of the groups and 1 for all others; the parts are drawn at random."""
    parts = min(count, MAX_PARTS)
    # Not the streams of groups and runs, which have the same seed.
    part_of = (np.random.default_rng((seed, 2)).permutation(count) % parts)[members]
    for start in range(0, parts, block):
        yield (part_of != np.arange(start, min(start + block, parts))[:, None]).astype(np.float64)


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
