"""Decisions for or against one class or finding: thresholds, what follows from them, and what they are worth.

An image is called positive if its probability is at least the threshold. A threshold is chosen on validation images and
used on test images; one that is chosen on the test images themselves promises too much.

Net benefit and decision curves: Vickers & Elkin, Medical Decision Making 26, 2006. The threshold t says what is worth
what: whoever acts at t = 0.1 accepts nine false alarms for one find. The net benefit TP/n - FP/n t/(1 - t) is the share
of patients found, less the false alarms at that price. Acting on everybody gives pi - (1 - pi) t/(1 - t) with the
prevalence pi, and acting on nobody 0. The probabilities must be calibrated: with the right order on the wrong scale,
even a good model has a net benefit below 0.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

Rates = Mapping[str, Float[np.ndarray, "s"]]


def threshold_for_sensitivity(labels: ArrayLike, probs: ArrayLike, least: float) -> float:
    """The highest of the probabilities that, as a threshold, finds at least the share `least` of the positives.

    Args:
      labels: bool [N].
      probs: [N].

    Raises ValueError if there is no positive, or if `least` is not in (0, 1].
    """
    labels, probs = _check(labels, probs, least)
    positives = np.sort(probs[labels])[::-1]
    if not len(positives):
        raise ValueError("no image is positive, so no threshold has a sensitivity")
    # 0.9 of 10 positives is 9, not the 9.000000000000002 of floating point.
    return float(positives[math.ceil(least * len(positives) - 1e-9) - 1])


def threshold_for_specificity(labels: ArrayLike, probs: ArrayLike, least: float) -> float:
    """The lowest of the probabilities that, as a threshold, leaves at least the share `least` of the negatives alone;
    infinite if none does.

    Arguments and errors as of `threshold_for_sensitivity`, with negatives for positives.
    """
    labels, probs = _check(labels, probs, least)
    negatives = np.sort(probs[~labels])
    if not len(negatives):
        raise ValueError("no image is negative, so no threshold has a specificity")
    highest = negatives[math.ceil(least * len(negatives) - 1e-9) - 1]
    above = probs[probs > highest]
    return float(above.min()) if len(above) else math.inf


def _check(labels: ArrayLike, probs: ArrayLike, least: float) -> tuple[Bool[np.ndarray, "n"], np.ndarray]:
    labels, probs = np.asarray(labels, bool), np.asarray(probs, np.float64)
    if labels.ndim != 1 or labels.shape != probs.shape:
        raise ValueError(f"need labels [N] and probs [N], got {labels.shape} and {probs.shape}")
    if not 0 < least <= 1:
        raise ValueError(f"the share must lie in (0, 1], got {least}")
    return labels, probs


def rates(labels: ArrayLike, called: ArrayLike, weights: ArrayLike | None = None) -> Rates:
    """What follows from calling images positive: sensitivity, specificity, ppv, npv, f1, kappa and mcc.

    Args:
      labels, called: bool [N], whether an image is positive, and whether it is called so.
      weights: [S, N], weightings of the images; by default each counts once.

    Returns for each name [S], NaN where it is undefined.
    """
    labels, called = np.asarray(labels, bool), np.asarray(called, bool)
    weights = np.ones((1, len(labels))) if weights is None else np.asarray(weights, np.float64)
    tp, fp, fn, tn = (
        weights @ np.asarray(both, np.float64)
        for both in (labels & called, ~labels & called, labels & ~called, ~labels & ~called)
    )
    total = tp + fp + fn + tn
    expected = (tp + fp) * (tp + fn) + (tn + fp) * (tn + fn)
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return MappingProxyType(
        {
            "sensitivity": _ratio(tp, tp + fn),
            "specificity": _ratio(tn, tn + fp),
            "ppv": _ratio(tp, tp + fp),
            "npv": _ratio(tn, tn + fn),
            "f1": _ratio(2 * tp, np.where(tp + fn > 0, 2 * tp + fp + fn, 0)),
            "kappa": _ratio(total * (tp + tn) - expected, total**2 - expected),
            "mcc": _ratio(tp * tn - fp * fn, spread),
        }
    )


def net_benefit(
    labels: ArrayLike, probs: ArrayLike, thresholds: ArrayLike, weights: ArrayLike | None = None
) -> Float[np.ndarray, "s t"]:
    """Net benefit of acting on the images whose probability is at least each threshold.

    Args:
      labels: bool [N].
      probs: [N], calibrated.
      thresholds: [T], in (0, 1).
      weights: [S, N], weightings of the images; by default each counts once.
    """
    labels, probs = np.asarray(labels, bool), np.asarray(probs, np.float64)
    odds = _odds(thresholds)
    called = probs[:, None] >= np.asarray(thresholds, np.float64)
    weights = np.ones((1, len(labels))) if weights is None else np.asarray(weights, np.float64)
    gained = np.where(labels[:, None], called, 0.0) - odds * np.where(labels[:, None], 0.0, called)
    return _ratio(weights @ gained, weights.sum(axis=1)[:, None])


def net_benefit_from_rates(
    sensitivity: ArrayLike, specificity: ArrayLike, prevalence: float, thresholds: ArrayLike
) -> Float[np.ndarray, "t"]:
    """Net benefit where positives are as frequent as `prevalence` says, and not as among the test images."""
    false_alarms = (1 - prevalence) * (1 - np.asarray(specificity, np.float64))
    return prevalence * np.asarray(sensitivity, np.float64) - false_alarms * _odds(thresholds)


def treat_all(prevalence: float, thresholds: ArrayLike) -> Float[np.ndarray, "t"]:
    """Net benefit of acting on everybody."""
    return net_benefit_from_rates(1.0, 0.0, prevalence, thresholds)


def _odds(thresholds: ArrayLike) -> Float[np.ndarray, "t"]:
    thresholds = np.asarray(thresholds, np.float64)
    if ((thresholds <= 0) | (thresholds >= 1)).any():
        raise ValueError("thresholds of net benefit lie between 0 and 1, without the ends")
    return thresholds / (1 - thresholds)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
