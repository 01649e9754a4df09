"""Whether the features of a training collapse: two measures, and a warning."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

HEALTH_ROWS = 512
# The mean cosine between the features of two images is then above 0.9975.
COLLAPSED_STD = 0.05
COLLAPSED_RANK = 1.5


@jax.jit
def feature_health(features: Float[Array, "batch dim"]) -> dict[str, Float[Array, ""]]:
    """Two measures of collapse, over the first 512 rows. Rows that are not finite make them NaN.

    feature_std: standard deviation over the batch of the L2-normalised features, mean over dimensions, times
        sqrt(dim): 1 for an isotropic cloud, 0 where all images look alike (Chen & He, arXiv 2011.10566, 4.1).
    effective_rank: exp(entropy) of the singular values, scaled to sum to 1, of the centred features, from 1
        to min(batch - 1, dim); 0 where nothing varies (Roy & Vetterli, EUSIPCO 2007, section 2).
    """
    rows = features[:HEALTH_ROWS].astype(jnp.float32)
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / jnp.where(length == 0, 1, length)
    feature_std = jnp.mean(jnp.std(unit, axis=0)) * jnp.sqrt(rows.shape[1])
    values = jnp.linalg.svd(rows - jnp.mean(rows, axis=0), compute_uv=False)
    # What rounding leaves of constant features is not a direction: below it counts as nothing.
    noise = 10 * jnp.finfo(jnp.float32).eps * jnp.linalg.norm(rows)
    values = jnp.where(values <= noise, 0, values)
    total = jnp.sum(values)
    shares = values / jnp.where(total == 0, 1, total)
    entropy = -jnp.sum(jax.scipy.special.xlogy(shares, shares))
    return {"feature_std": feature_std, "effective_rank": jnp.where(total == 0, 0, jnp.exp(entropy))}


def collapse_warning(health: Mapping[str, float]) -> str | None:
    """What is wrong with features of this health, or None. Waits for values still being computed."""
    std, rank = float(health["feature_std"]), float(health["effective_rank"])
    if not (math.isfinite(std) and math.isfinite(rank)):
        return "the features are not finite"
    if std >= COLLAPSED_STD and rank >= COLLAPSED_RANK:
        return None
    how = "all images get nearly the same" if std < COLLAPSED_STD else "they vary along a single direction"
    return f"the features collapse, {how} (feature_std {std:.2g}, effective_rank {rank:.2g})"
