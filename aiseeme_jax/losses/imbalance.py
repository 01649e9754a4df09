"""Losses for classes of very different sizes: margins by class, and logits shifted by the prior."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aiseeme_jax.losses.arrays import check_positive, check_same_shape, wide
from aiseeme_jax.losses.classification import cross_entropies


def ldam_margins(counts: Int[np.ndarray, " classes"], *, max_margin: float) -> Float[np.ndarray, " classes"]:
    """Margins that fall with the fourth root of the class size: max_margin n_c^(-1/4) / max_k n_k^(-1/4).

    The smallest class has `max_margin`. A class without images has the margin 0 and does not count as the smallest.
    Source: Cao et al., NeurIPS 2019 (arXiv 1906.07413), eq. 13.
    """
    check_positive(max_margin=max_margin)
    counts = np.asarray(counts, np.float64)
    roots = np.where(counts > 0, np.maximum(counts, 1) ** -0.25, 0.0)
    return max_margin * roots / roots.max()


def margin_cross_entropies(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    margins: Float[Array, " classes"],
    scale: float,
) -> Float[Array, " batch"]:
    """Cross-entropy of each row after `scale` times the margin of its class is taken off the logit of that class.

    Args:
      logits: `scale` times the cosine between features and class weights. The margins are cosines too: with other
        logits they mean nothing.

    Source: Cao et al., NeurIPS 2019 (arXiv 1906.07413), section 3.2.
    """
    classes = logits.shape[1]
    taken_off = jax.nn.one_hot(labels, classes) * (scale * wide(margins))
    return cross_entropies(wide(logits) - taken_off, labels)


def log_priors(counts: Int[np.ndarray, " classes"]) -> Float[np.ndarray, " classes"]:
    """Natural logarithms of the shares n_c / n of the classes.

    The prior of a class without images would be 0, and its logarithm infinite. It gets the largest logarithm of all
    instead (ours), so that an adjustment never favours a class that no image has.
    """
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    logs = np.log(np.where(present, counts, 1) / counts.sum())
    return np.where(present, logs, logs[present].max())


def binary_focal(
    logits: Float[Array, "*shape"], present: Bool[Array, "*shape"], *, gamma: float, alpha: float
) -> Float[Array, "*shape"]:
    """Of each element, -a (1 - p)^gamma log p, with p the sigmoid probability of what is true.

    a is alpha where `present`, and 1 - alpha elsewhere. Source: Lin et al., ICCV 2017 (arXiv 1708.02002), eq. 5.
    """
    check_same_shape(logits=logits, labels=present)
    signed = jnp.where(present, 1, -1) * wide(logits)
    # (1 - p)^gamma by the logarithm of 1 - p: exact if p rounds to 1.
    modulation = jnp.exp(gamma * jax.nn.log_sigmoid(-signed))
    return -jnp.where(present, alpha, 1 - alpha) * modulation * jax.nn.log_sigmoid(signed)
