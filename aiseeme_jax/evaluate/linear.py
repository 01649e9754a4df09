"""Linear probe: multinomial logistic regression on standardised features, strength chosen on validation.

scikit-learn is imported where it is used: it takes a second, and every start of the program reads this module.
"""

import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from aiseeme_jax.evaluate.metrics import balanced_accuracy

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


class LinearProbe(NamedTuple):
    """What the probe chose and gave.

    Attributes:
      strength: the inverse regularisation C that did best on validation.
      validation_score: its balanced accuracy there.
      converged: whether the fit of that C ended before `max_iter`.
      unconverged: how many of all candidates did not.
      probs: 'validation' and 'test' -> [N, classes].
    """

    strength: float
    validation_score: float
    converged: bool
    unconverged: int
    probs: dict[str, Float[np.ndarray, "n c"]]


def linear_probe(
    features: Mapping[str, ArrayLike],
    labels: Mapping[str, ArrayLike],
    *,
    strengths: Sequence[float],
    class_weight: str,
    max_iter: int,
    classes: int,
) -> LinearProbe:
    """Fits one classifier per strength on 'train' and keeps the best by balanced accuracy on 'validation'.

    Of equals the strongest regularisation (smallest C) is kept. A class without a training row gets
    probability 0.

    Args:
      features: 'train', 'validation' and 'test' -> [N, D]; standardised with mean and deviation of 'train'.
      labels: 'train' and 'validation' -> int [N].
      strengths: candidates for C, positive.
      class_weight: 'balanced' (n / (classes present x n_c)) or 'none'.
    """
    if class_weight not in ("balanced", "none"):
        raise ValueError(f"unknown class_weight '{class_weight}': known are balanced, none")
    if not strengths or min(strengths) <= 0:
        raise ValueError(f"the linear probe needs positive strengths C, got {tuple(strengths)}")
    if len(np.unique(labels["train"])) < 2:
        raise ValueError("the linear probe needs at least two classes among the training labels")
    x = _standardised(features)
    best, best_score, unconverged = None, -np.inf, 0
    fits = _fits(x["train"], labels["train"], sorted(strengths), class_weight, max_iter)
    for strength, (model, converged) in zip(sorted(strengths), fits, strict=True):
        unconverged += not converged
        score = balanced_accuracy(labels["validation"], _probabilities(model, x["validation"], classes))
        if score > best_score:
            best, best_score = (float(strength), converged, model), score
    strength, converged, model = best
    probs = {split: _probabilities(model, x[split], classes) for split in ("validation", "test")}
    return LinearProbe(strength, best_score, converged, unconverged, probs)


def _standardised(features: Mapping[str, ArrayLike]) -> dict[str, Float[np.ndarray, "n d"]]:
    from sklearn.preprocessing import StandardScaler

    # float64: the line search of L-BFGS gives up early in float32.
    x = {split: np.asarray(features[split], np.float64) for split in ("train", "validation", "test")}
    for split, rows in x.items():
        if not np.isfinite(rows).all():
            raise ValueError(f"{split} features hold values that are not finite: the backbone has diverged")
    scaler = StandardScaler().fit(x["train"])
    return {split: scaler.transform(rows) for split, rows in x.items()}


def _fits(
    x: Float[np.ndarray, "n d"], labels: ArrayLike, strengths: Sequence[float], class_weight: str, max_iter: int
) -> list[tuple["LogisticRegression", bool]]:
    """One fit of each strength, side by side, a thread each.

    Threads within products of so few columns cost more than they bring (results/speed.md), and would let the number of
    cores into the result.
    """
    from sklearn.exceptions import ConvergenceWarning

    fit = functools.partial(_fit, x, np.asarray(labels), class_weight=class_weight, max_iter=max_iter)
    workers = min(len(strengths), os.cpu_count() or 1)
    with threadpool_limits(1), warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # Counted and reported in the result, once, where the library would warn for each candidate.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return list(pool.map(fit, strengths))


def _fit(
    x: Float[np.ndarray, "n d"], labels: np.ndarray, strength: float, *, class_weight: str, max_iter: int
) -> tuple["LogisticRegression", bool]:
    from sklearn.linear_model import LogisticRegression

    weight = None if class_weight == "none" else class_weight
    model = LogisticRegression(C=strength, class_weight=weight, max_iter=max_iter).fit(x, labels)
    return model, bool(model.n_iter_.max() < max_iter)


def _probabilities(model: "LogisticRegression", x: Float[np.ndarray, "n d"], classes: int) -> Float[np.ndarray, "n c"]:
    probs = np.zeros((len(x), classes))
    probs[:, model.classes_] = model.predict_proba(x)
    return probs
