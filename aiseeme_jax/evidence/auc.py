"""The variance of areas under the ROC curve without resampling, also where a patient has several images.

An area is the mean over pairs of a positive and a negative of psi: 1 if the positive scores higher, 1/2 if both are
equal, else 0. DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988: the component of a positive is its mean psi over
the negatives, that of a negative its mean over the positives, and their covariances are those of the areas. The
components are computed by midranks (Sun & Xu, IEEE Signal Processing Letters 21, 2014).

DeLong's variance holds for independent images. Where patients have many, it is far too small: a third of the true one
for 50 patients with 4 images and one label. Obuchowski, Biometrics 53, 1997, sums the components of each patient (or
lesion) first. For patients with one image, both are the same.

All of this says how another set of patients would change the area of these models. It says nothing about training them
again: that needs seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy import special, stats

from aiseeme_jax.evaluate.bootstrap import number_groups


@dataclass(frozen=True)
class Areas:
    """Areas under the ROC curve of R models on the same images.

    Attributes:
      values: [R].
      covariance: [R, R], of the values.
    """

    values: Float[np.ndarray, "r"]
    covariance: Float[np.ndarray, "r r"]

    def contrast(self, weights: ArrayLike) -> tuple[float, float]:
        """A weighted sum of the areas, and its standard error.

        Args:
          weights: [R], such as (1, -1) for the difference of two models, or (1/2, 1/2) for the mean of two seeds.
        """
        weights = np.asarray(weights, np.float64)
        variance = float(weights @ self.covariance @ weights)
        return float(weights @ self.values), math.sqrt(max(0.0, variance))


def measure_areas(labels: ArrayLike, scores: ArrayLike, groups: Sequence | None) -> Areas:
    """Areas of one or several models with their covariance.

    Args:
      labels: bool [N], whether an image is a positive.
      scores: [N] of one model, or [R, N].
      groups: [N], the patient or lesion of each image; None if all images are independent (DeLong).

    The covariance is NaN if fewer than two groups have a positive, or fewer than two have a negative.

    Raises ValueError for scores that are not finite or do not fit the labels, and for labels of one kind only.
    """
    labels, scores = _check(labels, scores)
    positive, negative = _components(labels, scores)
    values = positive.mean(axis=1)
    members = number_groups(groups, len(labels))
    return Areas(values, _covariance(labels, positive, negative, values, members))


def logit_interval(value: float, error: float, level: float = 0.95) -> tuple[float, float]:
    """The interval that is symmetric on the logit of an area, so that it stays between 0 and 1.

    It is NaN where there is none: at an area of 0 or 1, and without a standard error.

    Args:
      error: standard error of the area.
    """
    if not (0 < value < 1 and error > 0):
        return math.nan, math.nan
    half = special.ndtri(0.5 + level / 2) * error / (value * (1 - value))
    return tuple(float(special.expit(special.logit(value) + side * half)) for side in (-1, 1))


def compare_areas(difference: float, error: float) -> tuple[float, float]:
    """z and two-sided p of the hypothesis that two areas are equal; NaN without a standard error, as for equal models.

    Args:
      error: standard error of the difference.
    """
    if not error > 0:
        return math.nan, math.nan
    z = difference / error
    return z, float(2 * special.ndtr(-abs(z)))


def _check(labels: ArrayLike, scores: ArrayLike) -> tuple[Bool[np.ndarray, "n"], Float[np.ndarray, "r n"]]:
    labels, scores = np.asarray(labels), np.atleast_2d(np.asarray(scores, np.float64))
    if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
        raise ValueError("labels of an area under the ROC curve are 1 (positive) and 0: leave unknown ones out")
    labels = labels.astype(bool)
    if labels.ndim != 1 or scores.ndim != 2 or scores.shape[1] != len(labels):
        raise ValueError(f"need labels [N] and scores [N] or [R, N], got {labels.shape} and {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not all finite")
    if labels.all() or not labels.any():
        raise ValueError(f"the area is undefined: {labels.sum()} of {len(labels)} images are positive")
    return labels, scores


def _components(
    labels: Bool[np.ndarray, "n"], scores: Float[np.ndarray, "r n"]
) -> tuple[Float[np.ndarray, "r p"], Float[np.ndarray, "r q"]]:
    """DeLong's components of the positives and of the negatives."""
    ranks = stats.rankdata(scores, axis=1)
    of_positives = stats.rankdata(scores[:, labels], axis=1)
    of_negatives = stats.rankdata(scores[:, ~labels], axis=1)
    positives, negatives = np.count_nonzero(labels), np.count_nonzero(~labels)
    return (ranks[:, labels] - of_positives) / negatives, 1 - (ranks[:, ~labels] - of_negatives) / positives


def _covariance(
    labels: Bool[np.ndarray, "n"],
    positive: Float[np.ndarray, "r p"],
    negative: Float[np.ndarray, "r q"],
    values: Float[np.ndarray, "r"],
    members: np.ndarray,
) -> Float[np.ndarray, "r r"]:
    """Obuchowski's covariance of the areas; with one image in each group it is DeLong's."""
    groups = int(members.max()) + 1
    a, with_positive = _sum_by_group(positive - values[:, None], members[labels], groups)
    b, with_negative = _sum_by_group(negative - values[:, None], members[~labels], groups)
    if min(with_positive, with_negative) < 2:
        return np.full((len(values), len(values)), np.nan)
    m, n = positive.shape[1], negative.shape[1]
    cross = groups / (groups - 1) * (a @ b.T)
    return (
        with_positive / (with_positive - 1) * (a @ a.T) / m**2
        + with_negative / (with_negative - 1) * (b @ b.T) / n**2
        + (cross + cross.T) / (m * n)
    )


def _sum_by_group(
    values: Float[np.ndarray, "r k"], members: np.ndarray, groups: int
) -> tuple[Float[np.ndarray, "r g"], int]:
    """Sums of the values of each group, and how many groups have any."""
    sums = np.array([np.bincount(members, weights=row, minlength=groups) for row in values])
    return sums, len(np.unique(members))
