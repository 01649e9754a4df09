"""Losses that compare arrays element by element."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from aiseeme_jax.losses.arrays import check_same_shape, wide


def mse(prediction: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Mean of the squared differences over all elements."""
    return jnp.mean(squared_errors(prediction, target))


def squared_errors(prediction: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The squared difference of each element."""
    check_same_shape(prediction=prediction, target=target)
    return jnp.square(wide(prediction) - wide(target))


def masked_mse(
    prediction: Float[Array, "*shape"], target: Float[Array, "*shape"], mask: Bool[Array, "*shape"]
) -> Float[Array, ""]:
    """Mean of the squared differences over the elements where the mask is True; 0 if there is none.

    The mask is broadcast to the shape of the arrays.
    Source: Pathak et al., CVPR 2016 (arXiv 1604.07379), eq. 1, as a mean.
    """
    check_same_shape(prediction=prediction, target=target)
    mask = jnp.broadcast_to(mask, prediction.shape)
    squares = jnp.where(mask, jnp.square(wide(prediction) - wide(target)), 0)
    return jnp.sum(squares) / jnp.maximum(jnp.sum(mask, dtype=squares.dtype), 1)
