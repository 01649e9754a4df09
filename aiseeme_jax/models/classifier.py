"""A classifier: a backbone and a head on its pooled features."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.losses.arrays import matmul, normalise

# How logits [..., K] become probabilities, by the kind of labels. An image has one class, but any number of findings.
PROBABILITIES: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"class": jax.nn.softmax, "findings": jax.nn.sigmoid}
)


class ClassifierNetwork(nnx.Module):
    """Logits of K classes or findings.

    Args:
      backbone: gives pooled features [B, D].
      head: maps [B, D] to [B, K], as `linear_head` and `CosineHead` do.
    """

    def __init__(self, backbone: nnx.Module, head: nnx.Module):
        self.backbone, self.head = backbone, head

    def __call__(
        self, images: Float[Array, "b *space c"], *, train: bool
    ) -> tuple[Float[Array, "b k"], Float[Array, "b d"]]:
        """Logits, and the pooled features, both float32."""
        features = self.backbone(images, train=train)["pooled"].astype(jnp.float32)
        return self.head(features), features


def linear_head(features: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Makes a head with small weights, so that the first steps of fine-tuning change the backbone only a little."""
    return nnx.Linear(features, outputs, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)


class CosineHead(nnx.Module):
    """Logits that are `scale` times the cosine between the features and the weights of each class; no bias.

    Args:
      features: D.
      outputs: K.
      scale: positive.
    """

    def __init__(self, features: int, outputs: int, *, scale: float, rngs: nnx.Rngs):
        # Columns of about length 1: only their direction counts, and a short one turns faster.
        kernel = jax.random.normal(rngs.params(), (features, outputs)) / jnp.sqrt(features)
        self.kernel = nnx.Param(kernel)
        self.scale = scale

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b k"]:
        directions = normalise(self.kernel[...].T).T
        return self.scale * matmul(normalise(x), directions)
