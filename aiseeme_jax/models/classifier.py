"""A classifier: a backbone and a linear head on its pooled features."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

# How logits [..., K] become probabilities, by the kind of labels. An image has one class, but any number of findings.
PROBABILITIES: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"class": jax.nn.softmax, "findings": jax.nn.sigmoid}
)


class ClassifierNetwork(nnx.Module):
    """Logits of K classes or findings.

    Args:
      backbone: gives pooled features [B, D].
      head: maps [B, D] to [B, K], as `linear_head` does.
    """

    def __init__(self, backbone: nnx.Module, head: nnx.Linear):
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
