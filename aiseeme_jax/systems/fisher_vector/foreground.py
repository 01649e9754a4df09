"""How much each component of the mixture models the foreground, learnt by what helps a classifier on held-out images.

Pan et al. (IEEE TIP 28(10), 2019) write the density of an image as a mixture of a foreground and a background. Then the
gradients of the foreground alone are c_l G_l, with one number c_l >= 0 for each component, 0 for one that models
background only. A linear classifier is fitted on a part of the training images, and c is what lowers its loss on the
rest.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from aiseeme_jax.evaluate.imbalance.base import WEIGHTED
from aiseeme_jax.losses.arrays import matmul
from aiseeme_jax.systems.fisher_vector.encoding import make_vectors, weigh

# softplus(START) is 1.
START = float(np.log(np.expm1(1.0)))


class LinearClassifier(NamedTuple):
    """Logits of K classes or findings: vectors kernel + bias."""

    kernel: Float[Array, "v k"]
    bias: Float[Array, " k"]

    def __call__(self, vectors: Float[Array, "n v"]) -> Float[Array, "n k"]:
        return matmul(vectors, self.kernel) + self.bias


def weighted_vectors(gradients: Float[Array, "n l two d"], weights: Float[Array, " l"]) -> Float[Array, "n v"]:
    """The improved vectors of c_l G_l. They do not depend on the scale of the weights."""
    return make_vectors(weigh(gradients, weights), improved=True)


def learn_weights(
    gradients: Float[Array, "n l two d"],
    labels: Array,
    classifier: LinearClassifier,
    *,
    kind: str,
    class_weights: Sequence[Any],
    steps: int,
    rate: float,
    sparsity: float,
) -> Float[np.ndarray, " l"]:
    """c of each component, with the mean 1: what lowers the loss of a fixed classifier on held-out images.

    Minimises cross-entropy + `sparsity` |c|_1 / (sqrt(L) |c|_2) over a, c = softplus(a), by Adam from c = 1. A plain
    |c|_1 would be lowered by scaling all of c, which changes no vector.

    Args:
      gradients: of the held-out images, by `fisher_gradients`.
      labels: of them, int [N], or of findings float [N, K].
      classifier: of improved vectors, fitted on other images.
      kind: of the labels.
      class_weights: of `Labels.class_weights`.
    """
    with jax.default_matmul_precision("highest"):
        found = _minimise(
            jnp.asarray(gradients),
            jnp.asarray(labels),
            classifier,
            jnp.asarray(class_weights, jnp.float32),
            kind=kind,
            steps=steps,
            rate=rate,
            sparsity=sparsity,
        )
    return np.asarray(found)


@functools.partial(jax.jit, static_argnames=("kind", "steps"))
def _minimise(
    gradients: Float[Array, "n l two d"],
    labels: Array,
    classifier: LinearClassifier,
    class_weights: Array,
    *,
    kind: str,
    steps: int,
    rate: float,
    sparsity: float,
) -> Float[Array, " l"]:
    components = gradients.shape[1]
    optimizer = optax.adam(rate)

    def cost(a: Float[Array, " l"]) -> Float[Array, ""]:
        weights = jax.nn.softplus(a)
        spread = jnp.sum(weights) / jnp.sqrt(components * jnp.sum(jnp.square(weights)))
        logits = classifier(weighted_vectors(gradients, weights))
        return WEIGHTED[kind](logits, labels, class_weights).value + sparsity * spread

    def step(_: int, state: tuple[Array, Any]) -> tuple[Array, Any]:
        a, memory = state
        updates, memory = optimizer.update(jax.grad(cost)(a), memory)
        return optax.apply_updates(a, updates), memory

    start = jnp.full(components, START)
    a, _ = jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))
    weights = jax.nn.softplus(a)
    return weights / jnp.mean(weights)
