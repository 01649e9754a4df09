"""Attention of residual blocks (ARL: Zhang et al., IEEE TMI 38(9), 2019): a block weighs its input by its own maps.

Of a block with shortcut I and residual F, before its last ReLU:

    out = relu(I + F + scale · R[F] · I)

R is a softmax over the positions of each map, and the scale one learnable number of a block. The idea and that R is
spatial are in the paper. That the scale is a single number for each block, the order of the sum, and that all blocks
have attention are from memory; the first value of the scale is ours.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aiseeme_jax.errors import UserError

# none: a plain block | arl: R as above | arl_gain: R times the number of positions, so that its mean is 1 (ours).
NONE, ATTENTIONS = "none", ("none", "arl", "arl_gain")
# First value of the scale: ours.
SCALE = 0.001


def check_attention(kind: str, scale: float) -> None:
    """Raises UserError for an unknown kind, or for a scale that is not finite."""
    if kind not in ATTENTIONS:
        raise UserError(f"unknown model.attention '{kind}': known are {', '.join(ATTENTIONS)}")
    if not math.isfinite(scale):
        raise UserError(f"model.attention_scale is {scale}; it must be finite")


def spatial_softmax(maps: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
    """A softmax over the positions of each map: each map of each image sums to 1. Computed and returned in float32."""
    return jax.nn.softmax(maps.astype(jnp.float32), axis=tuple(range(1, maps.ndim - 1)))


def weigh_input(
    residual: Float[Array, "b *space c"], shortcut: Float[Array, "b *space c"], scale: Float[Array, ""], kind: str
) -> Float[Array, "b *space c"]:
    """scale · R[residual] · shortcut, in float32."""
    weights = spatial_softmax(residual)
    if kind == "arl_gain":
        weights = weights * math.prod(residual.shape[1:-1])
    return scale * weights * shortcut.astype(jnp.float32)
