"""Linear probe: logistic regression on standardised features, its strength chosen on validation.

Classes share one multinomial regression; of several findings, each has a regression of its own, on the rows in which it
is known. scikit-learn is imported where it is used: importing it takes a second, and every start of the program imports
this module.
"""

import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from aiseeme_jax import data
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.labels import Regression, check_class_weight, make_labels
from aiseeme_jax.evaluate.measurement import Measured, Measurement, Protocol, Runtime, Subject
from aiseeme_jax.evaluate.metrics import main_metric

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


# The size of a logit that is sure.
CERTAIN = 30.0


class LinearProbe(NamedTuple):
    """What the probe chose and gave.

    Attributes:
      strength: the inverse regularisation C with the best score on validation.
      validation_score: its balanced accuracy there, of findings its macro AUROC.
      converged: whether all fits of that C ended before `max_iter`.
      unconverged: how many of all candidates had a fit that did not.
      probs: of each split but 'train', [N, classes].
    """

    strength: float
    validation_score: float
    converged: bool
    unconverged: int
    probs: dict[str, Float[np.ndarray, "n c"]]


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Classifies the test images by a regression on the features of the training images."""
    vectors, labels = subject.features_and_labels(measurement, runtime.evaluation_batch)
    target = measurement.target
    probe = linear_probe(
        vectors,
        labels,
        strengths=target.strengths,
        class_weight=target.class_weight,
        max_iter=target.max_iter,
        classes=len(subject.splits["test"].class_names),
    )
    chosen = {
        "strength": probe.strength,
        "validation_score": probe.validation_score,
        "converged": probe.converged,
        "unconverged_candidates": probe.unconverged,
    }
    return Measured(probe.probs["test"], probe.probs["validation"], chosen)


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for strengths, a number of iterations or a class_weight that cannot be. `svm` has these too."""
    check_class_weight(target.class_weight)
    if not target.strengths or not all(strength > 0 for strength in target.strengths):
        raise UserError(f"strengths are {tuple(target.strengths)}; there must be some, each positive")
    if target.max_iter < 1:
        raise UserError(f"max_iter is {target.max_iter}; it must be at least 1")


LINEAR = Protocol("linear", trains=False, check=check, measure=measure)


def linear_probe(
    features: Mapping[str, ArrayLike],
    labels: Mapping[str, ArrayLike],
    *,
    strengths: Sequence[float],
    class_weight: str,
    max_iter: int,
    classes: int,
    standardise: bool = True,
) -> LinearProbe:
    """Fits 'train' once for each strength, and takes the best by balanced accuracy (findings: macro AUROC) on
    'validation'. Of equal ones the strongest regularisation (smallest C) is taken.

    A class or finding that no training row has gets probability 0.

    Args:
      features: 'train', 'validation' and others, such as 'test' -> [N, D].
      labels: 'train' and 'validation' -> int [N], or of findings float [N, C].
      strengths: candidates for C, positive.
      class_weight: 'balanced' (n / (classes present x n_c), of a finding n / (2 n_v)) or 'none'.
      standardise: whether features are standardised with mean and deviation of 'train'. If the scales of features say
        how much each counts, they are not.
    """
    check_class_weight(class_weight)
    if not strengths or min(strengths) <= 0:
        raise ValueError(f"the linear probe needs positive strengths C, got {tuple(strengths)}")
    train = make_labels(labels["train"], classes)
    if not train.learnable:
        raise ValueError(f"the linear probe cannot learn from the training labels: {train.describe_undefined()}")
    x = _as_doubles(features)
    x = _standardised(x) if standardise else x
    score_of = main_metric(labels["validation"])
    best, best_score, unconverged = None, -np.inf, 0
    candidates = _fit_all(x["train"], train.regressions(), sorted(strengths), class_weight, max_iter)
    for strength, fits in zip(sorted(strengths), candidates, strict=True):
        converged = all(fit.converged for fit in fits)
        unconverged += not converged
        score = score_of(labels["validation"], _probabilities(fits, x["validation"], classes))
        if score > best_score:
            best, best_score = (float(strength), converged, fits), score
    strength, converged, fits = best
    probs = {split: _probabilities(fits, x[split], classes) for split in x if split != "train"}
    return LinearProbe(strength, best_score, converged, unconverged, probs)


def fit_kernel(
    vectors: ArrayLike, labels: ArrayLike, *, strength: float, class_weight: str, max_iter: int, classes: int
) -> tuple[Float[np.ndarray, "d c"], Float[np.ndarray, " c"]]:
    """Kernel and bias of the regressions of one C, on vectors as they are: logits are vectors kernel + bias.

    The softmax of the logits, of findings their sigmoid, is the probability. A class that no row has gets the bias
    `-CERTAIN`, and a finding that all rows have, or none has, the bias `CERTAIN` or `-CERTAIN`.

    Args: as of `linear_probe`.
    """
    made = make_labels(labels, classes)
    x = _as_doubles({"train": vectors})["train"]
    kernel, bias = np.zeros((x.shape[1], classes)), np.full(classes, -CERTAIN)
    for (fit,) in zip(*_fit_all(x, made.regressions(), [strength], class_weight, max_iter), strict=True):
        fit.fill_kernel(kernel, bias)
    return kernel, bias


def _as_doubles(features: Mapping[str, ArrayLike]) -> dict[str, Float[np.ndarray, "n d"]]:
    # float64: the line search of L-BFGS gives up early in float32.
    x = {split: np.asarray(rows, np.float64) for split, rows in features.items()}
    for split, rows in x.items():
        if not np.isfinite(rows).all():
            raise ValueError(f"{split} features hold values that are not finite: the backbone has diverged")
    return x


def _standardised(x: Mapping[str, Float[np.ndarray, "n d"]]) -> dict[str, Float[np.ndarray, "n d"]]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x["train"])
    return {split: scaler.transform(rows) for split, rows in x.items()}


@dataclass(frozen=True)
class _Fit:
    """A fitted regression; no model where its targets are all the same, or where there is none."""

    regression: Regression
    model: "LogisticRegression | None"
    converged: bool

    def fill(self, probs: Float[np.ndarray, "n c"], x: Float[np.ndarray, "n d"]) -> None:
        """Writes the probabilities of rows into the columns of the regression."""
        if self.model is None:
            found = np.unique(self.regression.targets)
            values = np.ones((len(x), len(found)))
        else:
            found, values = self.model.classes_, self.model.predict_proba(x)
        for place, target in enumerate(found):
            if target in self.regression.columns:
                probs[:, self.regression.columns[target]] = values[:, place]

    def fill_kernel(self, kernel: Float[np.ndarray, "d c"], bias: Float[np.ndarray, " c"]) -> None:
        """Writes the coefficients into the columns of the regression."""
        if self.model is None:
            found = self.regression.targets[:1]
            coefficients, offsets = np.zeros((1, len(kernel))), np.full(1, CERTAIN)
        else:
            found, coefficients, offsets = self.model.classes_, self.model.coef_, self.model.intercept_
            if len(coefficients) < len(found):
                # Of two values, the regression has the log odds of the second one.
                coefficients, offsets = (np.stack([np.zeros_like(x[0]), x[0]]) for x in (coefficients, offsets))
        for place, target in enumerate(found):
            if target in self.regression.columns:
                column = self.regression.columns[target]
                kernel[:, column], bias[column] = coefficients[place], offsets[place]


def _fit_all(
    x: Float[np.ndarray, "n d"],
    regressions: Sequence[Regression],
    strengths: Sequence[float],
    class_weight: str,
    max_iter: int,
) -> list[list[_Fit]]:
    """The fits of all regressions for each strength, side by side, a thread each.

    More threads within one fit would cost more than they bring, as the products have so few columns
    (results/speed.md), and the result would depend on the number of cores.
    """
    from sklearn.exceptions import ConvergenceWarning

    fit = functools.partial(_fit, x, class_weight=class_weight, max_iter=max_iter)
    pairs = [(regression, strength) for strength in strengths for regression in regressions]
    workers = min(len(pairs), os.cpu_count() or 1)
    with threadpool_limits(1), warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # Counted and reported in the result, once; the library would warn for each candidate.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = list(pool.map(fit, *zip(*pairs, strict=True)))
    return [fits[start : start + len(regressions)] for start in range(0, len(fits), len(regressions))]


def _fit(
    x: Float[np.ndarray, "n d"], regression: Regression, strength: float, *, class_weight: str, max_iter: int
) -> _Fit:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(regression.targets)) < 2:
        return _Fit(regression, None, True)
    weight = None if class_weight == "none" else class_weight
    model = LogisticRegression(C=strength, class_weight=weight, max_iter=max_iter)
    # Indexing copies, and all fits run at once.
    model.fit(x if len(regression.rows) == len(x) else x[regression.rows], regression.targets)
    return _Fit(regression, model, bool(model.n_iter_.max() < max_iter))


def _probabilities(fits: Sequence[_Fit], x: Float[np.ndarray, "n d"], classes: int) -> Float[np.ndarray, "n c"]:
    probs = np.zeros((len(x), classes))
    for fit in fits:
        fit.fill(probs, x)
    return probs
