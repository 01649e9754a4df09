"""Whether probabilities mean what they say: of the images with p = 0.3, are 30 % positive?

The expected calibration error (ECE) sorts images into bins by probability and takes the mean distance between the mean
probability and the share of positives of a bin. Three different numbers have this name:
  * binary: of one class or finding against the rest;
  * class-wise: the mean of the binary ones over the classes or findings;
  * top-label: of the probability of the decided class and of whether the decision is right.

It is biased upwards: with few images in a bin, the share of positives is away from the mean probability by chance. A
perfectly calibrated model with p ~ Beta(1, 3) and 15 bins has an ECE of .10 with 100 images, .05 with 500 and .01 with
10,000. So `null_of_ece` draws labels from the probabilities themselves, and the ECE stands beside what these give.
`debiased_squared_error` subtracts the bias (Kumar, Liang & Ma 2019).

The Brier score, mean (p - y)^2, is reliability - resolution + uncertainty (Murphy 1973). That is exact only if all
probabilities in a bin are equal; with the term within bins it is exact for any.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy import special

from aiseeme_jax.evaluate.bootstrap import number_groups
from aiseeme_jax.evaluate.calibration import fit_temperature
from aiseeme_jax.evaluate.labels import ClassLabels, Labels, make_labels

BINS = 15
# Probabilities of kNN may be 0 and 1, whose logits are infinite.
CLIP = 1e-6
# Labels that `null_of_ece` draws.
NULL_DRAWS = 500

# From probabilities [N] to the bin of each, 0 ... B - 1.
Binning = Callable[[Float[np.ndarray, "n"], int], Int[np.ndarray, "n"]]


def equal_width(probs: Float[np.ndarray, "n"], bins: int = BINS) -> Int[np.ndarray, "n"]:
    """Bins of equal width over [0, 1]; a probability on an edge belongs to the bin above it, 1 to the last."""
    return np.minimum((probs * bins).astype(np.int64), bins - 1)


def equal_mass(probs: Float[np.ndarray, "n"], bins: int = BINS) -> Int[np.ndarray, "n"]:
    """Bins with about equally many images each. Equal probabilities share one bin: that of the lowest of them."""
    first = np.searchsorted(np.sort(probs), probs, side="left")
    return first * bins // len(probs)


BINNINGS: dict[str, Binning] = {"equal_width": equal_width, "equal_mass": equal_mass}


@dataclass(frozen=True)
class Bins:
    """Sums over the images of each bin that has any.

    Attributes:
      count: [B], images.
      prob: [B], mean probability.
      positive: [B], share of positives.
    """

    count: Float[np.ndarray, "b"]
    prob: Float[np.ndarray, "b"]
    positive: Float[np.ndarray, "b"]


def fill_bins(labels: ArrayLike, probs: ArrayLike, binning: Binning = equal_width, bins: int = BINS) -> Bins:
    """Sorts images into bins.

    Args:
      labels: bool [N].
      probs: [N].

    Raises ValueError for labels and probabilities that do not fit, or for no images.
    """
    labels, probs = _check(labels, probs)
    places = binning(probs, bins)
    counts = np.bincount(places, minlength=bins).astype(np.float64)
    filled = counts > 0
    means = [np.bincount(places, weights=values, minlength=bins)[filled] / counts[filled] for values in (probs, labels)]
    return Bins(counts[filled], *means)


def ece(labels: ArrayLike, probs: ArrayLike, binning: Binning = equal_width, bins: int = BINS) -> float:
    """Expected calibration error of one class or finding. Arguments and errors as of `fill_bins`."""
    made = fill_bins(labels, probs, binning, bins)
    return float(np.sum(made.count * np.abs(made.prob - made.positive)) / made.count.sum())


def debiased_squared_error(
    labels: ArrayLike, probs: ArrayLike, binning: Binning = equal_mass, bins: int = BINS
) -> float:
    """Mean squared distance over bins, less what chance adds to it; below 0 where chance is overestimated.

    Bins with one image say nothing and are left out; NaN if there are no others. Arguments as of `fill_bins`.
    """
    made = fill_bins(labels, probs, binning, bins)
    several = made.count > 1
    if not several.any():
        return math.nan
    count, prob, positive = made.count[several], made.prob[several], made.positive[several]
    excess = (prob - positive) ** 2 - positive * (1 - positive) / (count - 1)
    return float(np.sum(count * excess) / count.sum())


def null_of_ece(
    probs: ArrayLike,
    groups: Sequence | None = None,
    binning: Binning = equal_width,
    bins: int = BINS,
    *,
    draws: int = NULL_DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and 95th percentile of the ECE that a calibrated model would have with these probabilities.

    Labels are drawn from the probabilities. Images of one group are positive together, as photographs of one lesion
    are: with one random number for the group, an image is positive if its probability is above it.

    Args:
      probs: [N].
      groups: [N], lesion or patient of each image; None if all are independent.
    """
    probs = np.asarray(probs, np.float64)
    members = number_groups(groups, len(probs))
    places = binning(probs, bins)
    table = places == np.arange(bins)[:, None]
    count = table.sum(axis=1)
    sums = table @ probs
    uniform = np.random.default_rng(seed).random((draws, members.max() + 1))
    drawn = (uniform[:, members] < probs).astype(np.float64) @ table.T
    found = np.abs(drawn - sums)[:, count > 0].sum(axis=1) / len(probs)
    return float(found.mean()), float(np.percentile(found, 95))


@dataclass(frozen=True)
class BrierParts:
    """The Brier score and its parts: score = reliability - resolution + uncertainty + within.

    Attributes:
      skill: 1 - score / uncertainty: 0 for the prevalence as the probability of each image.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float

    @property
    def skill(self) -> float:
        return 1 - self.score / self.uncertainty if self.uncertainty > 0 else math.nan


def decompose_brier(
    labels: ArrayLike, probs: ArrayLike, binning: Binning = equal_width, bins: int = BINS
) -> BrierParts:
    """The Brier score of one class or finding with its parts. Arguments and errors as of `fill_bins`."""
    labels, probs = _check(labels, probs)
    made = fill_bins(labels, probs, binning, bins)
    share, rate = made.count / len(labels), labels.mean()
    # Place of each image among the bins that have any.
    place = np.unique(binning(probs, bins), return_inverse=True)[1]
    off, truth = probs - made.prob[place], labels - made.positive[place]
    return BrierParts(
        score=float(np.mean((probs - labels) ** 2)),
        reliability=float(np.sum(share * (made.prob - made.positive) ** 2)),
        resolution=float(np.sum(share * (made.positive - rate) ** 2)),
        uncertainty=float(rate * (1 - rate)),
        within=float(np.mean(off**2 - 2 * off * truth)),
    )


def fit_slope(labels: ArrayLike, probs: ArrayLike) -> tuple[float, float]:
    """Slope and intercept of a logistic regression of the label on the logit of the probability.

    They are 1 and 0 for calibrated probabilities. A slope below 1 means that these are too extreme. NaN where there is
    none: positives or negatives alone, one probability for all, or a probability that separates them.

    Arguments and errors as of `fill_bins`.
    """
    labels, probs = _check(labels, probs)
    if labels.min() == labels.max() or np.ptp(probs) == 0:
        return math.nan, math.nan
    logits = special.logit(np.clip(probs, CLIP, 1 - CLIP))
    if _separates(labels.astype(bool), logits):
        return math.nan, math.nan
    x = np.column_stack([logits, np.ones_like(logits)])
    found = np.array([1.0, 0.0])
    for _ in range(100):
        fitted = special.expit(x @ found)
        gradient = x.T @ (labels - fitted)
        step = np.linalg.lstsq((x * (fitted * (1 - fitted))[:, None]).T @ x, gradient, rcond=None)[0]
        # Halved until the likelihood grows, since Newton's step may be too long.
        while _likelihood(x, labels, found + step) < _likelihood(x, labels, found) - 1e-9:
            step /= 2
        found = found + step
        if np.abs(step).max() < 1e-10:
            break
    return float(found[0]), float(found[1])


def _likelihood(x: Float[np.ndarray, "n 2"], labels: np.ndarray, found: Float[np.ndarray, "2"]) -> float:
    return float(np.sum(special.log_expit(np.where(labels == 1, 1, -1) * (x @ found))))


def _separates(labels: Bool[np.ndarray, "n"], logits: np.ndarray) -> bool:
    positives, negatives = logits[labels], logits[~labels]
    return bool(positives.min() >= negatives.max() or positives.max() <= negatives.min())


def top_label(labels: ClassLabels, probs: Float[np.ndarray, "n c"]) -> tuple[Bool[np.ndarray, "n"], np.ndarray]:
    """Whether the decided class is right, and its probability. If classes share the highest one, it is wrong."""
    best = probs.max(axis=1)
    tied = np.sum(probs == best[:, None], axis=1) > 1
    return (probs.argmax(axis=1) == labels.values) & ~tied, best


# What is done to probabilities after training


def to_logits(labels: Labels, probs: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Logits whose softmax (of findings, sigmoid) gives the probabilities, which are kept CLIP away from 0 and 1."""
    clipped = np.clip(np.asarray(probs, np.float64), CLIP, 1 - CLIP)
    return np.log(clipped) if labels.KIND == ClassLabels.KIND else special.logit(clipped)


def to_probs(labels: Labels, logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Probabilities of logits: softmax of classes, sigmoid of findings."""
    return special.softmax(logits, axis=1) if labels.KIND == ClassLabels.KIND else special.expit(logits)


def shift_of_prior(labels: Labels) -> Float[np.ndarray, "c"]:
    """What to add to logits of a classifier that was trained as if all classes (of findings, presence and absence) were
    equally frequent, so that they are as frequent as in these labels.

    It is log(share / (1 / C)) of each of C classes, and the logit of the share of each finding. A class that does not
    occur counts as half an image, and so does a finding that is always, or never, present.
    """
    present = labels.present.sum(axis=0).astype(np.float64)
    if labels.KIND == ClassLabels.KIND:
        share = np.maximum(present, 0.5) / len(labels)
        return np.log(share * labels.count)
    known = np.maximum(labels.known.sum(axis=0), 1)
    return special.logit(np.clip(present / known, 0.5 / known, 1 - 0.5 / known))


@dataclass(frozen=True)
class Recalibration:
    """What was fitted on validation: a temperature, and for balanced training the frequencies of the classes.

    Attributes:
      note: on the temperature, '' if there is nothing to know.
    """

    temperature: float
    shift: Float[np.ndarray, "c"] | None
    note: str

    def apply(self, labels: Labels, probs: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
        """Probabilities as the recalibrated classifier has them."""
        logits = to_logits(labels, probs)
        return to_probs(labels, (logits if self.shift is None else logits + self.shift) / self.temperature)


def recalibrate(labels: ArrayLike, probs: ArrayLike, *, balanced: bool = False) -> Recalibration:
    """Fits a temperature on validation, after the logits were shifted to the frequencies of the classes there.

    Args:
      labels: int [N], or of findings float [N, C], of validation images.
      probs: [N, C].
      balanced: whether the classifier was trained as if all classes were equally frequent. Only then are they shifted.
    """
    probs = np.asarray(probs, np.float64)
    made = make_labels(labels, probs.shape[1])
    shift = shift_of_prior(made) if balanced else None
    logits = to_logits(made, probs)
    fitted = fit_temperature(logits if shift is None else logits + shift, made)
    return Recalibration(fitted.value, shift, fitted.note)


def _check(labels: ArrayLike, probs: ArrayLike) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    labels, probs = np.asarray(labels, np.float64), np.asarray(probs, np.float64)
    if labels.ndim != 1 or labels.shape != probs.shape or not len(labels):
        raise ValueError(f"need labels [N] and probs [N] with N > 0, got {labels.shape} and {probs.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels of calibration are 1 and 0: leave unknown ones out")
    if not (np.isfinite(probs).all() and probs.min() >= 0 and probs.max() <= 1):
        raise ValueError("probabilities lie between 0 and 1")
    return labels, probs
