"""Multi-layer perceptrons on pooled features: projection and prediction heads."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.models.resnet import Norm


class MLP(nnx.Module):
    """Linear layers with ReLU between them; no hidden layer makes it a plain linear map.

    Args:
      features: D, length of the input.
      hidden: widths of the hidden layers.
      out: K, length of the output.
      norm: batch normalisation in the hidden layers, before the ReLU.
      final_norm: batch normalisation of the output.
      dtype: of the products; the output is float32.

    A linear layer carries a bias unless a norm follows, which would take it out again.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int],
        out: int,
        *,
        norm: bool = False,
        final_norm: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        widths = [features, *hidden, out]
        normed = [norm] * len(hidden) + [final_norm]
        self.layers = nnx.List(
            nnx.Linear(
                widths[i],
                widths[i + 1],
                use_bias=not normed[i],
                dtype=jnp.dtype(dtype),
                param_dtype=jnp.float32,
                kernel_init=nnx.initializers.he_normal() if i < len(hidden) else nnx.initializers.lecun_normal(),
                rngs=rngs,
            )
            for i in range(len(normed))
        )
        self.norms = nnx.List(
            Norm(width, rngs=rngs) if has_norm else None for width, has_norm in zip(widths[1:], normed, strict=True)
        )

    def __call__(self, x: Float[Array, "b d"], *, train: bool) -> Float[Array, "b k"]:
        last = len(self.layers) - 1
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = layer(x)
            x = x if norm is None else norm(x, train=train)
            x = jax.nn.relu(x) if i < last else x
        return x.astype(jnp.float32)
