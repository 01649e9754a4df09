"""A classifier: a backbone and a linear head on its pooled features."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

# What turns logits [..., K] into probabilities, by the kind of labels. Classes exclude each other, findings do not.
PROBABILITIES: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"class": jax.nn.softmax, "findings": jax.nn.sigmoid}
)


class ClassifierNetwork(nnx.Module):
    """Logits of K classes or findings.

    Args:
      backbone: gives pooled features [B, D].
      head: maps [B, D] to [B, K], such as `linear_head`.
    """

    def __init__(self, backbone: nnx.Module, head: nnx.Linear):
        self.backbone, self.head = backbone, head

    def __call__(
        self, images: Float[Array, "b *space c"], *, train: bool
    ) -> tuple[Float[Array, "b k"], Float[Array, "b d"]]:
        """Logits, and the pooled features they come from, both float32."""
        features = self.backbone(images, train=train)["pooled"].astype(jnp.float32)
        return self.head(features), features


def linear_head(features: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A head with small weights: the first steps of fine-tuning then change the backbone's features only a little."""
    return nnx.Linear(features, outputs, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)
