"""Losses on two views, without negatives."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aiseeme_jax.losses.arrays import check_rows, check_same_shape, matmul, normalise, wide
from aiseeme_jax.losses.reconstruction import mse

_BARLOW_EPSILON = 1e-5
_VICREG_EPSILON = 1e-4


def negative_cosine(prediction: Float[Array, "batch dim"], target: Float[Array, "batch dim"]) -> Float[Array, ""]:
    """-mean_i cos(prediction_i, target_i), in [-1, 1]; rows are L2-normalised here.

    Source: Chen & He, CVPR 2021 (arXiv 2011.10566), eq. 1. The squared distance of BYOL (eq. 2) is 2 + 2
    times this.
    """
    return -jnp.mean(cosines(prediction, target))


def cosines(one: Float[Array, "batch dim"], other: Float[Array, "batch dim"]) -> Float[Array, " batch"]:
    """The cosine of the angle between each two rows, in [-1, 1]; rows are L2-normalised here."""
    check_same_shape(one=one, other=other)
    return jnp.sum(normalise(wide(one)) * normalise(wide(other)), axis=-1)


def barlow_twins(
    z1: Float[Array, "batch dim"], z2: Float[Array, "batch dim"], *, off_diagonal_weight: float
) -> Float[Array, ""]:
    """sum_i (1 - C_ii)^2 + off_diagonal_weight · sum_{i != j} C_ij^2, not negative; at least two rows.

    C [dim, dim] is the cross-correlation over the batch of the two views, each dimension standardised with
    its mean and its biased variance (+ 1e-5). Source: Zbontar et al., ICML 2021 (arXiv 2103.03230), eqs. 1
    and 2.
    """
    check_same_shape(z1=z1, z2=z2)
    check_rows(2, "one row has no variance", z1=z1)
    correlation = matmul(_standardise(wide(z1)).T, _standardise(wide(z2))) / z1.shape[0]
    diagonal = jnp.diagonal(correlation)
    return jnp.sum(jnp.square(1 - diagonal)) + off_diagonal_weight * _off_diagonal_energy(correlation)


def vicreg(
    z1: Float[Array, "batch dim"],
    z2: Float[Array, "batch dim"],
    *,
    invariance: float,
    variance: float,
    covariance: float,
) -> Float[Array, ""]:
    """invariance · mse(z1, z2) + variance · v + covariance · c, not negative; at least two rows.

    v: for each view half of the mean over dimensions of max(0, 1 - sqrt(Var + 1e-4)), summed over both views.
    c: the sum of the squared off-diagonal elements of each view's covariance matrix, divided by dim, summed over both
    views. Variances and covariances are unbiased (N - 1). Source: Bardes et al., ICLR 2022 (arXiv 2105.04906), eqs. 1
    to 6; the invariance term is the mean over rows and dimensions, as in their algorithm 1.
    """
    check_same_shape(z1=z1, z2=z2)
    check_rows(2, "one row has no variance", z1=z1)
    hinge, redundancy = 0.0, 0.0
    for rows in (wide(z1), wide(z2)):
        centred = rows - jnp.mean(rows, axis=0)
        matrix = matmul(centred.T, centred) / (rows.shape[0] - 1)
        deviation = jnp.sqrt(jnp.diagonal(matrix) + _VICREG_EPSILON)
        hinge += jnp.mean(jax.nn.relu(1 - deviation)) / 2
        redundancy += _off_diagonal_energy(matrix) / rows.shape[1]
    return invariance * mse(z1, z2) + variance * hinge + covariance * redundancy


def _standardise(rows: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
    return (rows - jnp.mean(rows, axis=0)) * jax.lax.rsqrt(jnp.var(rows, axis=0) + _BARLOW_EPSILON)


def _off_diagonal_energy(matrix: Float[Array, "dim dim"]) -> Float[Array, ""]:
    """Sum of the squared off-diagonal elements. Masked, since a difference of sums would lose digits."""
    return jnp.sum(jnp.square(jnp.where(jnp.eye(matrix.shape[0], dtype=bool), 0, matrix)))
