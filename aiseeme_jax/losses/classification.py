"""Losses on class scores, weights of classes, and the accuracy."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from aiseeme_jax.losses.arrays import check_same_shape, wide


def cross_entropies(logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """Softmax cross-entropy of each row, -log p_i[y_i]; NaN for a label that is not 0 … classes-1."""
    return -_at_label(jax.nn.log_softmax(wide(logits)), labels)


def cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    weights: Float[Array, " classes"] | None = None,
) -> Float[Array, ""]:
    """Softmax cross-entropy, sum_i w[y_i] (-log p_i[y_i]) / sum_i w[y_i]; without weights the plain mean.

    Labels are 0 … classes-1. Any other label makes the loss NaN, so that it is noticed.
    """
    losses = cross_entropies(logits, labels)
    if weights is None:
        return jnp.mean(losses)
    weights = jnp.take(wide(weights), labels, mode="clip")
    return jnp.sum(weights * losses) / jnp.sum(weights)


def binary_cross_entropy(logits: Float[Array, "*shape"], labels: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Mean over all elements of `binary_cross_entropies`."""
    return jnp.mean(binary_cross_entropies(logits, labels))


def binary_cross_entropies(logits: Float[Array, "*shape"], labels: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Of each element, -log sigmoid(x) where the label is True, and -log sigmoid(-x) elsewhere."""
    check_same_shape(logits=logits, labels=labels)
    return -jax.nn.log_sigmoid(jnp.where(labels, 1, -1) * wide(logits))


def focal(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    gamma: float,
    alpha: float | Float[Array, " classes"],
) -> Float[Array, ""]:
    """mean_i -alpha[y_i] (1 - p_i)^gamma log p_i, with p_i the softmax probability of the label.

    There are at least two classes. alpha is one number, or one for each class. gamma 0 and alpha 1 give
    `cross_entropy`. Labels are as there. Source: Lin et al., ICCV 2017 (arXiv 1708.02002), eq. 5, with softmax in place
    of their sigmoid.
    """
    logits = wide(logits)
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError(f"logits have shape {logits.shape}: of one class the focal loss is 0 whatever they are")
    log_probabilities = jax.nn.log_softmax(logits)
    log_p = _at_label(log_probabilities, labels)
    # log(1 - p) from the other classes: exact if p rounds to 1, and without a power of zero in the gradient.
    others = jnp.where(jax.nn.one_hot(labels, classes, dtype=bool), -jnp.inf, log_probabilities)
    modulation = jnp.exp(gamma * jax.nn.logsumexp(others, axis=1))
    alpha = jnp.take(jnp.broadcast_to(wide(alpha), (classes,)), labels, mode="clip")
    return jnp.mean(-alpha * modulation * log_p)


def class_balanced_weights(counts: Int[Array, " classes"], *, beta: float) -> Float[Array, " classes"]:
    """Weights (1 - beta) / (1 - beta^n_c), scaled to sum to the number of classes.

    beta 0 gives all ones, beta → 1 the inverse frequencies. A class without examples gets weight 0 and is not counted
    in the scaling. Source: Cui et al., CVPR 2019 (arXiv 1901.05555), eq. 4 and
    section 4.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}; it must lie in [0, 1)")
    counts = wide(counts)
    present = counts > 0
    # 1 - beta^n by expm1, with the logarithm in double precision: the plain difference loses four digits at 0.9999.
    log_beta = math.log(beta) if beta > 0 else -math.inf
    weights = jnp.where(present, -1 / jnp.expm1(jnp.where(present, counts, 1) * log_beta), 0)
    return weights * jnp.sum(present) / jnp.sum(weights)


def _at_label(log_probabilities: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """Each row's value at its label; NaN if the label is not a class (-1 would index the last class)."""
    labels = jnp.asarray(labels)
    classes = log_probabilities.shape[1]
    picked = jnp.take_along_axis(log_probabilities, jnp.clip(labels, 0, classes - 1)[:, None], axis=1)[:, 0]
    return jnp.where((labels >= 0) & (labels < classes), picked, jnp.nan)


def accuracy(logits: Float[Array, "n k"], labels: Int[Array, "n"]) -> Float[Array, ""]:
    """Share of rows whose largest logit is that of the label."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)
