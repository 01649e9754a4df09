"""Losses of a mask, over the pixels in which it is known."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from aiseeme_jax.losses.arrays import check_same_shape, wide
from aiseeme_jax.losses.classification import binary_cross_entropies

# In the denominator of the soft Dice coefficient.
EPSILON = 1e-5


def masked_binary_cross_entropy(
    logits: Float[Array, "b *space"], inside: Bool[Array, "b *space"], known: Bool[Array, "b *space"]
) -> Float[Array, ""]:
    """Mean of `binary_cross_entropies` over the known pixels of the batch; 0 if there is none."""
    check_same_shape(logits=logits, inside=inside, known=known)
    rows = jnp.where(known, binary_cross_entropies(logits, inside), 0)
    return jnp.sum(rows) / jnp.maximum(jnp.sum(known, dtype=rows.dtype), 1)


def soft_dice(
    logits: Float[Array, "b *space"], inside: Bool[Array, "b *space"], known: Bool[Array, "b *space"]
) -> Float[Array, ""]:
    """1 - 2 sum(p y) / (sum p + sum y + 1e-5) over the known pixels of an image, with p = sigmoid(logit).

    It is computed for what is inside the mask and for what is outside, and the mean of both is taken, then that over
    the images of which some pixel is known; 0 if there is none. Of an empty mask the term of the inside is 1 whatever
    is predicted. Source: the Dice loss of Xie et al., IEEE TMI 2020 (MB-DCNN).
    """
    check_same_shape(logits=logits, inside=inside, known=known)
    axes = tuple(range(1, logits.ndim))
    terms = []
    for sign, truth in ((1, inside), (-1, ~inside)):
        p = jnp.where(known, jax.nn.sigmoid(sign * wide(logits)), 0)
        y = (truth & known).astype(p.dtype)
        terms.append(1 - 2 * jnp.sum(p * y, axes) / (jnp.sum(p, axes) + jnp.sum(y, axes) + EPSILON))
    counts = jnp.any(known, axes)
    return jnp.sum(jnp.where(counts, sum(terms) / 2, 0)) / jnp.maximum(jnp.sum(counts), 1)
