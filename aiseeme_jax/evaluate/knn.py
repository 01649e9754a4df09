"""Weighted k-nearest-neighbour classifier on frozen features (Wu et al. 2018, section 3.4), balanced if asked.

Plain votes follow how frequent the classes are: where there are 52 common training rows to each rare one, few
neighbours are ever rare, and the k of the best balanced accuracy is the smallest there is. Balanced votes are divided
by the number of training rows of their class, so that a class counts by how densely it lies around the query.

Of several findings, each neighbour votes for or against those that are known of it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from aiseeme_jax import data
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.labels import check_class_weight, make_labels
from aiseeme_jax.evaluate.measurement import Measured, Measurement, Protocol, Runtime, Subject
from aiseeme_jax.evaluate.metrics import main_metric

# Test rows compared with the whole training set at once.
_CHUNK = 256


class KnnProbe(NamedTuple):
    """The k chosen on validation, its score there, and the probabilities [N, C] of each split."""

    k: int
    validation_score: float
    probs: dict[str, Float[np.ndarray, "n c"]]


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Classifies the test images by their neighbours among the training images."""
    vectors, labels = subject.features_and_labels(measurement, runtime.evaluation_batch)
    target = measurement.target
    probe = knn_probe(
        vectors,
        labels,
        ks=target.neighbours,
        temperature=target.temperature,
        class_weight=target.class_weight,
        classes=len(subject.splits["test"].class_names),
    )
    chosen = {"neighbours": probe.k, "validation_score": probe.validation_score}
    return Measured(probe.probs["test"], probe.probs["validation"], chosen)


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for numbers of neighbours, a temperature or a class_weight that cannot be."""
    check_class_weight(target.class_weight)
    if not target.neighbours or not all(isinstance(k, int) and k >= 1 for k in target.neighbours):
        raise UserError(f"neighbours are {tuple(target.neighbours)}; there must be some, each whole and at least 1")
    if not target.temperature > 0:
        raise UserError(f"temperature is {target.temperature}; it must be positive")


KNN = Protocol("knn", trains=False, check=check, measure=measure)


def knn_probe(
    features: Mapping[str, ArrayLike],
    labels: Mapping[str, ArrayLike],
    *,
    ks: Sequence[int],
    temperature: float = 0.07,
    class_weight: str,
    classes: int,
) -> KnnProbe:
    """Classifies 'validation' and 'test' with the k of the best balanced accuracy (findings: macro AUROC) on
    'validation'. Of equal ones the smallest is taken.

    Args:
      features: 'train', 'validation' and 'test' -> [N, D].
      labels: 'train' and 'validation' -> int [N], or of findings float [N, C].
      ks: candidates; one beyond the number of training rows means all of them.
      class_weight: 'balanced' or 'none', as in `knn_probabilities`.
    """
    if not ks:
        raise ValueError("knn needs at least one candidate in `ks`")
    candidates = sorted({min(int(k), len(features["train"])) for k in ks})

    def classify(split: str, k: int) -> Float[np.ndarray, "n c"]:
        return knn_probabilities(
            features["train"],
            labels["train"],
            features[split],
            k=k,
            temperature=temperature,
            class_weight=class_weight,
            classes=classes,
        )

    validation = {k: classify("validation", k) for k in candidates}
    score = main_metric(labels["validation"])
    scores = {k: score(labels["validation"], probs) for k, probs in validation.items()}
    best = max(candidates, key=lambda k: scores[k])
    return KnnProbe(best, scores[best], {"validation": validation[best], "test": classify("test", best)})


def knn_probabilities(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    *,
    k: int,
    temperature: float = 0.07,
    class_weight: str,
    classes: int,
) -> Float[np.ndarray, "n c"]:
    """Votes of the k training rows of largest cosine similarity s, each of weight exp(s / temperature), as shares.

    Of classes the shares of a row sum to 1. Of findings they are votes for the finding, over votes for and against it;
    where none of the k neighbours knows, all training rows vote alike.

    Args:
      train_features, train_labels, test_features: [N, D], int [N] or float [N, C], [M, D].
      class_weight: 'balanced' divides the votes for a class, or for and against a finding, by their number of training
        rows; 'none' does not. A class or finding that no training row has gets 0.
    """
    train, test = _features("train", train_features), _features("test", test_features)
    if not 1 <= k <= len(train):
        raise ValueError(f"k must lie between 1 and the {len(train)} training rows, got {k}")
    labels = make_labels(train_labels, classes)
    if len(labels) != len(train):
        raise ValueError(f"need {len(train)} training labels, got {len(labels)}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    votes_of, weights = labels.vote_table(class_weight)
    train, table = _unit(jnp.asarray(train)), jnp.asarray(votes_of)
    padded = np.pad(test, ((0, -len(test) % _CHUNK), (0, 0)))
    votes = [
        _votes(train, table, jnp.asarray(weights), jnp.asarray(padded[start : start + _CHUNK]), temperature, k=k)
        for start in range(0, len(padded), _CHUNK)
    ]
    all_votes = weights * votes_of.sum(axis=0)
    return np.concatenate([np.asarray(labels.probabilities_from_votes(v, all_votes)) for v in votes])[: len(test)]


@partial(jax.jit, static_argnames=("k",))
def _votes(
    train: Float[Array, "n d"],
    vote_table: Float[Array, "n v"],
    vote_weights: Float[Array, "v"],
    test: Float[Array, "b d"],
    temperature: float,
    *,
    k: int,
) -> Float[Array, "b v"]:
    # 'highest': the default of an accelerator multiplies in fewer bits, and exp(s / 0.07) magnifies that.
    similarity = jnp.matmul(_unit(test), train.T, precision="highest")
    nearest, rows = jax.lax.top_k(similarity, k)
    # A softmax over the neighbours gives the same shares of votes, without overflow.
    weights = jax.nn.softmax(nearest / temperature, axis=-1)
    return vote_weights * jnp.einsum("bk,bkv->bv", weights, vote_table[rows], precision="highest")


def _unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _features(name: str, features: ArrayLike) -> Float[np.ndarray, "n d"]:
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not len(features):
        raise ValueError(f"{name} features must be [N, D] with N > 0, got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} features hold values that are not finite: the backbone has diverged")
    return features
