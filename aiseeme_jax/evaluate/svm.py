"""Linear support vector machines on normalised features, as few-shot protocols use them (Goyal et al., ICCV 2019).

Each class is told from all others by a machine of its own, and each finding by one on the rows in which it is known.
Rows have length 1. C is chosen on validation, by balanced accuracy (findings: macro AUROC). A machine gives margins.
They become probabilities by one temperature, fitted on validation, which does not change the order of the classes.
scikit-learn is imported where it is used, as in `linear.py`.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from aiseeme_jax.evaluate.calibration import fit_temperature
from aiseeme_jax.evaluate.labels import Labels, Regression, make_labels
from aiseeme_jax.evaluate.linear import check
from aiseeme_jax.evaluate.measurement import Measured, Measurement, Protocol, Runtime, Subject
from aiseeme_jax.evaluate.metrics import main_metric
from aiseeme_jax.models.classifier import PROBABILITIES


class SupportVectors(NamedTuple):
    """What the machines chose and gave.

    Attributes:
      strength: the C with the best score on validation; of equal ones the smallest.
      validation_score: its balanced accuracy there, of findings its macro AUROC.
      converged: whether all machines of that C ended before `max_iter`.
      temperature: by which margins were divided.
      probs: of each split but 'train', [N, C].
    """

    strength: float
    validation_score: float
    converged: bool
    temperature: float
    probs: dict[str, Float[np.ndarray, "n c"]]


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Classifies the test images by machines on the features of the training images."""
    vectors, labels = subject.features_and_labels(measurement, runtime.evaluation_batch)
    target = measurement.target
    found = support_vectors(
        vectors,
        labels,
        strengths=target.strengths,
        class_weight=target.class_weight,
        max_iter=target.max_iter,
        classes=len(subject.splits["test"].class_names),
        seed=measurement.seed,
    )
    chosen = {
        "strength": found.strength,
        "validation_score": found.validation_score,
        "converged": found.converged,
        "temperature": found.temperature,
    }
    return Measured(found.probs["test"], found.probs["validation"], chosen)


SVM = Protocol("svm", trains=False, check=check, measure=measure)


def support_vectors(
    features: Mapping[str, ArrayLike],
    labels: Mapping[str, ArrayLike],
    *,
    strengths: Sequence[float],
    class_weight: str,
    max_iter: int,
    classes: int,
    seed: int,
) -> SupportVectors:
    """Fits 'train' once for each strength, and takes the best on 'validation'.

    A class or finding that no training row has gets probability 0.

    Args:
      features: 'train', 'validation' and others, such as 'test' -> [N, D]; each row is scaled to length 1.
      labels: 'train' and 'validation' -> int [N], or of findings float [N, C].
      strengths: candidates for C, positive.
      class_weight: 'balanced' (each of the two sides of a machine counts alike) or 'none'.
      seed: of the order in which a machine visits the rows.

    Raises ValueError for features that are not finite, and for training labels that nothing can be learnt from.
    """
    train, known = make_labels(labels["train"], classes), make_labels(labels["validation"], classes)
    if not train.learnable:
        raise ValueError(f"the machines cannot learn from the training labels: {train.describe_undefined()}")
    x = {split: _scale_rows(split, rows) for split, rows in features.items()}
    score_of = main_metric(labels["validation"])
    weight = None if class_weight == "none" else class_weight
    best: tuple[float, float, bool, list] | None = None
    for strength in sorted(strengths):
        machines = [
            _fit(x["train"], regression, C=strength, class_weight=weight, max_iter=max_iter, random_state=seed)
            for regression in train.regressions()
        ]
        score = score_of(labels["validation"], _to_probabilities(_margins(machines, x["validation"], classes), train))
        if best is None or score > best[1]:
            best = float(strength), score, all(converged for _, _, converged in machines), machines
    strength, score, converged, machines = best
    margins = {split: _margins(machines, x[split], classes) for split in x if split != "train"}
    # A temperature cannot make a class likely of which no machine knows.
    rows, told = known.limit_to(np.isfinite(margins["validation"]).all(axis=0))
    temperature = fit_temperature(margins["validation"][rows], told).value
    probs = {split: _to_probabilities(found / temperature, train) for split, found in margins.items()}
    return SupportVectors(strength, score, converged, temperature, probs)


def _scale_rows(split: str, rows: ArrayLike) -> Float[np.ndarray, "n d"]:
    rows = np.asarray(rows, np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"{split} features hold values that are not finite: the backbone has diverged")
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _fit(x: Float[np.ndarray, "n d"], regression: Regression, **settings) -> tuple[Regression, object | None, bool]:
    """A regression's part of the labels, its machines, None where all its targets are the same, and whether they
    converged.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    if len(np.unique(regression.targets)) < 2:
        return regression, None, True
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine = LinearSVC(dual="auto", **settings).fit(x[regression.rows], regression.targets)
    return regression, machine, bool(machine.n_iter_ < settings["max_iter"])


def _margins(machines: Sequence[tuple], x: Float[np.ndarray, "n d"], classes: int) -> Float[np.ndarray, "n c"]:
    """Signed distances, scaled by the length of the weights, to what separates each class or finding from the rest."""
    margins = np.full((len(x), classes), -np.inf)
    for regression, machine, _ in machines:
        found = np.unique(regression.targets)
        if machine is None:
            values = np.full((len(x), 1), np.inf)
        else:
            values = machine.decision_function(x)
            # Of two classes there is one machine, for the second.
            values = np.stack([-values, values], axis=1) if values.ndim == 1 else values
        for place, target in enumerate(found):
            if target in regression.columns:
                margins[:, regression.columns[target]] = values[:, place]
    return margins


def _to_probabilities(margins: Float[np.ndarray, "n c"], labels: Labels) -> Float[np.ndarray, "n c"]:
    return np.asarray(PROBABILITIES[labels.KIND](jnp.asarray(margins)), np.float64)
