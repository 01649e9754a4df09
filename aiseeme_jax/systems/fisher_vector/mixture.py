"""A mixture of Gaussians with diagonal covariances, fitted by expectation-maximisation on the device.

It is fitted here and not by scikit-learn, since the descriptors are made on the device and are many. A test compares
the two.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax.losses.arrays import matmul
from aiseeme_jax.pretext.clustering import kmeans

# A component with a smaller weight than this share of 1 / L is dead: the Fisher vector divides by its root.
DEAD = 0.1
# Of k-means, which gives the means to start from.
SEEDING_ITERATIONS = 20
LOG_2PI = 1.8378770664093453


class Mixture(NamedTuple):
    """L Gaussians of D dimensions.

    Attributes:
      weights: positive, they sum to 1.
      means, variances: of each dimension.
    """

    weights: Float[Array, " l"]
    means: Float[Array, "l d"]
    variances: Float[Array, "l d"]


def log_joint(mixture: Mixture, x: Float[Array, "n d"]) -> Float[Array, "n l"]:
    """log(w_l N(x; mu_l, sigma_l^2))."""
    precisions = 1 / mixture.variances
    squares = matmul(jnp.square(x), precisions.T) - 2 * matmul(x, (mixture.means * precisions).T)
    offsets = jnp.sum(jnp.square(mixture.means) * precisions + jnp.log(mixture.variances) + LOG_2PI, axis=1)
    return jnp.log(mixture.weights) - (squares + offsets) / 2


def posteriors(mixture: Mixture, x: Float[Array, "n d"]) -> Float[Array, "n l"]:
    """g_l(x) = w_l N_l(x) / sum_k w_k N_k(x); each row sums to 1."""
    return jax.nn.softmax(log_joint(mixture, x), axis=1)


def mean_log_likelihood(mixture: Mixture, x: Float[Array, "n d"]) -> Float[Array, ""]:
    """Mean over the rows of log sum_l w_l N_l(x), in nats."""
    return jnp.mean(jax.nn.logsumexp(log_joint(mixture, x), axis=1))


@functools.partial(jax.jit, static_argnames=("components", "iterations"))
def fit_mixture(
    key: PRNGKeyArray, x: Float[Array, "n d"], *, components: int, iterations: int, floor: float
) -> Mixture:
    """The mixture after `iterations` steps of expectation-maximisation from k-means.

    Args:
      components: L, at most n.
      floor: of the variances, as a share of the variance of each dimension over all rows.
    """
    lowest = floor * jnp.var(x, axis=0)
    clusters = kmeans(key, x, components, iterations=SEEDING_ITERATIONS)
    start = _maximise(jax.nn.one_hot(clusters.labels, components), x, lowest)
    return improve_mixture(start, x, iterations=iterations, lowest=lowest)


def improve_mixture(
    mixture: Mixture, x: Float[Array, "n d"], *, iterations: int, lowest: Float[Array, " d"]
) -> Mixture:
    """The mixture after further steps; no variance becomes smaller than `lowest`."""

    def step(_: int, found: Mixture) -> Mixture:
        return _maximise(posteriors(found, x), x, lowest)

    return jax.lax.fori_loop(0, iterations, step, mixture)


def drop_dead(mixture: Mixture) -> Mixture:
    """The mixture without components whose weight is below `DEAD` / L; the weights of the others sum to 1."""
    alive = mixture.weights >= DEAD / len(mixture.weights)
    weights = mixture.weights[alive]
    return Mixture(weights / jnp.sum(weights), mixture.means[alive], mixture.variances[alive])


def _maximise(shares: Float[Array, "n l"], x: Float[Array, "n d"], lowest: Float[Array, " d"]) -> Mixture:
    """The mixture that fits rows best which belong to components by these shares (Bishop, 2006, section 9.2.2)."""
    counts = jnp.sum(shares, axis=0)
    # A component without rows keeps a weight near 0 and is dropped later.
    whole = jnp.maximum(counts, 1e-6)[:, None]
    means = matmul(shares.T, x) / whole
    variances = matmul(shares.T, jnp.square(x)) / whole - jnp.square(means)
    weights = jnp.maximum(counts, 1e-6)
    return Mixture(weights / jnp.sum(weights), means, jnp.maximum(variances, lowest))
