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
    logits: Float[Array, "b *space"],
    inside: Bool[Array, "b *space"],
    known: Bool[Array, "b *space"],
    *,
    smooth_both: bool = False,
) -> Float[Array, ""]:
    """1 - 2 sum(p y) / (sum p + sum y + 1e-5) over the known pixels of an image, with p = sigmoid(logit).

    It is computed for what is inside the mask and for what is outside, and the mean of both is taken, then that over
    the images of which some pixel is known; 0 if there is none. Of an empty mask the term of the inside is 1 whatever
    is predicted. Source: the Dice loss of Xie et al., IEEE TMI 2020 (MB-DCNN).

    Args:
      smooth_both: adds the 1e-5 above the line too. The term of an empty mask is then near 0 if nothing is predicted,
        and has a gradient.
    """
    check_same_shape(logits=logits, inside=inside, known=known)
    axes = tuple(range(1, logits.ndim))
    terms = []
    for sign, truth in ((1, inside), (-1, ~inside)):
        p = jnp.where(known, jax.nn.sigmoid(sign * wide(logits)), 0)
        y = (truth & known).astype(p.dtype)
        common, sizes = 2 * jnp.sum(p * y, axes), jnp.sum(p, axes) + jnp.sum(y, axes) + EPSILON
        terms.append(1 - (common + EPSILON * smooth_both) / sizes)
    counts = jnp.any(known, axes)
    return jnp.sum(jnp.where(counts, sum(terms) / 2, 0)) / jnp.maximum(jnp.sum(counts), 1)


def rank_loss(
    logits: Float[Array, "b *space"],
    inside: Bool[Array, "b *space"],
    known: Bool[Array, "b *space"],
    *,
    pixels: int,
    margin: float,
) -> Float[Array, ""]:
    """Mean of max(0, n - q + margin) over the pairs of the hardest pixels of an image, then over the images.

    n are the K highest probabilities outside of the mask, q the K lowest inside of it (Xie et al., IEEE TMI 2020). If
    an image has fewer pixels of one kind, all of them count, and the mean is that of the pairs that there are (ours);
    without a pair it is 0.

    Args:
      pixels: K, at most the pixels of an image.
      margin: of the probabilities.
    """
    check_same_shape(logits=logits, inside=inside, known=known)
    rows = (len(logits), -1)
    p = jax.nn.sigmoid(wide(logits)).reshape(rows)
    inside, known = inside.reshape(rows), known.reshape(rows)
    k = min(pixels, p.shape[1])
    # A probability is at least 0, so -2 stands for a pixel that is not there.
    outside_highest = jax.lax.top_k(jnp.where(known & ~inside, p, -2.0), k)[0]
    inside_lowest = -jax.lax.top_k(jnp.where(known & inside, -p, -2.0), k)[0]
    there = (outside_highest >= 0)[:, :, None] & (inside_lowest <= 1)[:, None, :]
    pairs = jax.nn.relu(outside_highest[:, :, None] - inside_lowest[:, None, :] + margin)
    return jnp.mean(jnp.sum(jnp.where(there, pairs, 0), (1, 2)) / jnp.maximum(jnp.sum(there, (1, 2)), 1))
