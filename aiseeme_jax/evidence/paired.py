"""Means and medians over images, and differences of them, with 95 % intervals by the cluster bootstrap.

The resamples are those of `evaluate.bootstrap`: whole lesions or patients are drawn, and both sides of a difference
have the same ones. A value that is NaN counts nowhere, and in a difference neither does its partner.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from aiseeme_jax.evaluate import bootstrap

Values = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, NaN where there is none.

    Attributes:
      p: of a difference, two-sided, 2 min(share of resamples <= 0, share >= 0), at least 1 / (resamples + 1); else NaN.
      images: how many it was made of.
    """

    value: float
    low: float
    high: float
    p: float
    images: int


class Resamples:
    """Resamples of the same images, for everything that is measured on them.

    Args:
      groups: lesion or patient of each image.
      samples: how many resamples.
    """

    def __init__(self, groups: Shaped[np.ndarray, " n"], samples: int, seed: int):
        self.samples, self.seed = samples, seed
        self.weights = np.concatenate(list(bootstrap.draw_weights(groups, len(groups), samples, seed)))

    def estimate(self, runs: Sequence[Values], *, median: bool = False) -> Estimate:
        """The mean (or median) over images, averaged over runs, such as seeds of fine-tuning."""
        drawn = [bootstrap.split_draws(self._average(run, median), self.samples) for run in runs]
        return self._summarise(drawn, np.isfinite(runs[0]).sum(), math.nan)

    def compare(self, first: Sequence[Values], second: Sequence[Values], *, median: bool = False) -> Estimate:
        """That of `first` minus that of `second`; runs in the same place form a pair."""
        drawn, images = [], 0
        for one, other in zip(first, second, strict=True):
            both = np.isfinite(one) & np.isfinite(other)
            sides = [self._average(np.where(both, side, np.nan), median) for side in (one, other)]
            drawn.append(bootstrap.split_draws(sides[0] - sides[1], self.samples))
            images = both.sum()
        resampled = bootstrap.mean_over_runs([one.resampled for one in drawn], self.seed)
        return self._summarise(drawn, images, find_p(resampled))

    def _summarise(self, drawn: Sequence[bootstrap.Draws], images: int, p: float) -> Estimate:
        value = float(np.mean([one.value for one in drawn]))
        return Estimate(value, *bootstrap.interval(drawn, self.seed), p, int(images))

    def _average(self, values: Values, median: bool) -> Float[np.ndarray, " s"]:
        """Of the values under each row of weights; NaN where no value has a weight."""
        known = np.isfinite(values)
        total = self.weights @ known
        with np.errstate(invalid="ignore", divide="ignore"):
            if median:
                found = _weighted_median(values[known], self.weights[:, known])
            else:
                found = self.weights @ np.where(known, values, 0) / total
        return np.where(total > 0, found, np.nan)


def find_p(resampled: Float[np.ndarray, " s"]) -> float:
    """Two-sided p of a difference, from its resamples; NaN if none is defined."""
    finite = resampled[np.isfinite(resampled)]
    if not len(finite):
        return math.nan
    return float(np.clip(2 * min((finite <= 0).mean(), (finite >= 0).mean()), 1 / (len(finite) + 1), 1))


def adjust_holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p of a family of tests, in their order; NaN is no test."""
    ps = np.asarray(ps, np.float64)
    adjusted, highest = np.full(len(ps), np.nan), 0.0
    tests = np.flatnonzero(np.isfinite(ps))
    for place, i in enumerate(tests[np.argsort(ps[tests], kind="stable")]):
        highest = max(highest, min(1.0, (len(tests) - place) * ps[i]))
        adjusted[i] = highest
    return adjusted.tolist()


def _weighted_median(values: Values, weights: Float[np.ndarray, "s n"]) -> Float[np.ndarray, " s"]:
    """The median of values that occur as often as their weights say: the mean of the two in the middle."""
    if not len(values):
        return np.full(len(weights), np.nan)
    order = np.argsort(values, kind="stable")
    values, mass = values[order], np.cumsum(weights[:, order], axis=1)
    half = mass[:, -1:] / 2
    last = len(values) - 1
    lower = np.minimum((mass < half).sum(axis=1), last)
    upper = np.minimum((mass <= half).sum(axis=1), last)
    return (values[lower] + values[upper]) / 2
