"""Weighted k-nearest-neighbour classifier on frozen features (Wu et al. 2018, section 3.4), balanced if asked.

Plain votes follow the class frequencies: of 52 common rows to a rare one few neighbours are ever rare, and the k of
best balanced accuracy is the smallest there is. Divided by its number of training rows, a class votes by how dense it
lies around the query.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from aiseeme_jax.evaluate.finetune import class_weights
from aiseeme_jax.evaluate.metrics import balanced_accuracy

# Test rows compared with the whole training set at once.
_CHUNK = 256


class KnnProbe(NamedTuple):
    """The k chosen on validation, its balanced accuracy there, and the probabilities [N, C] of each split."""

    k: int
    validation_score: float
    probs: dict[str, Float[np.ndarray, "n c"]]


def knn_probe(
    features: Mapping[str, ArrayLike],
    labels: Mapping[str, ArrayLike],
    *,
    ks: Sequence[int],
    temperature: float = 0.07,
    class_weight: str,
    classes: int,
) -> KnnProbe:
    """Classifies 'validation' and 'test' with the k of best balanced accuracy on 'validation'.

    Of equals the smallest is kept.

    Args:
      features: 'train', 'validation' and 'test' -> [N, D].
      labels: 'train' and 'validation' -> int [N].
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
    scores = {k: balanced_accuracy(labels["validation"], probs) for k, probs in validation.items()}
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
    """Votes of the k training rows of largest cosine similarity s, of weight exp(s / temperature), summing to 1.

    Args:
      train_features, train_labels, test_features: [N, D], int [N], [M, D].
      class_weight: 'balanced' divides the votes for a class by its number of training rows; 'none' does not. A class
        without one gets 0.
    """
    train, test = _features("train", train_features), _features("test", test_features)
    labels = np.asarray(train_labels)
    if not 1 <= k <= len(train):
        raise ValueError(f"k must lie between 1 and the {len(train)} training rows, got {k}")
    if labels.shape != (len(train),) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"need {len(train)} training labels from 0 to {classes - 1}, got shape {labels.shape}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    train = _unit(jnp.asarray(train))
    weights = jnp.asarray(class_weights(labels, classes, class_weight), jnp.float32)
    labels = jnp.asarray(labels, jnp.int32)
    padded = np.pad(test, ((0, -len(test) % _CHUNK), (0, 0)))
    votes = [
        _votes(train, labels, weights, jnp.asarray(padded[start : start + _CHUNK]), temperature, k=k)
        for start in range(0, len(padded), _CHUNK)
    ]
    return np.concatenate([np.asarray(v) for v in votes])[: len(test)]


@partial(jax.jit, static_argnames=("k",))
def _votes(
    train: Float[Array, "n d"],
    labels: Int[Array, "n"],
    class_weights: Float[Array, "classes"],
    test: Float[Array, "b d"],
    temperature: float,
    *,
    k: int,
) -> Float[Array, "b classes"]:
    # 'highest': the default of an accelerator multiplies in fewer bits, and exp(s / 0.07) magnifies that.
    similarity = jnp.matmul(_unit(test), train.T, precision="highest")
    nearest, rows = jax.lax.top_k(similarity, k)
    # A softmax over the neighbours is the normalised vote, without overflow.
    weights = jax.nn.softmax(nearest / temperature, axis=-1)
    of_class = jax.nn.one_hot(labels[rows], len(class_weights))
    votes = class_weights * jnp.einsum("bk,bkc->bc", weights, of_class, precision="highest")
    return votes / votes.sum(axis=-1, keepdims=True)


def _unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _features(name: str, features: ArrayLike) -> Float[np.ndarray, "n d"]:
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not len(features):
        raise ValueError(f"{name} features must be [N, D] with N > 0, got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} features hold values that are not finite: the backbone has diverged")
    return features
