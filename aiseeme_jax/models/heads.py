"""Multi-layer perceptrons on pooled features: projection and prediction heads."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax.models.resnet import Norm


class MLP(nnx.Module):
    """Linear layers with ReLU, or another activation, between them. Without hidden layers it is a linear map.

    Args:
      features: D, length of the input.
      hidden: widths of the hidden layers.
      out: K, length of the output.
      norm: batch normalisation in the hidden layers, before the activation.
      final_norm: batch normalisation of the output.
      final_affine: scale and shift in that normalisation.
      final_bias: bias of the last linear layer, if no norm follows it.
      activation: after each hidden layer.
      dtype: of the products. The output is float32.

    A linear layer has a bias, unless a norm follows, which would remove it.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int],
        out: int,
        *,
        norm: bool = False,
        final_norm: bool = False,
        final_affine: bool = True,
        final_bias: bool = True,
        activation: Callable[[Array], Array] = jax.nn.relu,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kind = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.float32, "rngs": rngs}
        he, lecun = nnx.initializers.he_normal(), nnx.initializers.lecun_normal()
        *inputs, last = (features, *hidden)
        layers = [
            nnx.Linear(width, next_width, use_bias=not norm, kernel_init=he, **kind)
            for width, next_width in zip(inputs, hidden, strict=True)
        ]
        layers.append(nnx.Linear(last, out, use_bias=final_bias and not final_norm, kernel_init=lecun, **kind))
        norms = [Norm(width, careful=True, rngs=rngs) if norm else None for width in hidden]
        norms.append(Norm(out, affine=final_affine, careful=True, rngs=rngs) if final_norm else None)
        self.layers, self.norms, self.activation = nnx.List(layers), nnx.List(norms), activation

    def __call__(self, x: Float[Array, "b d"], *, train: bool) -> Float[Array, "b k"]:
        last = len(self.layers) - 1
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = layer(x)
            x = x if norm is None else norm(x, train=train)
            x = self.activation(x) if i < last else x
        return x.astype(jnp.float32)


def drop(key: PRNGKeyArray, x: Float[Array, "*shape"], share: float) -> Float[Array, "*shape"]:
    """Dropout: sets a random `share` of the values to 0, and divides the others by 1 - share."""
    if not share:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - share, x.shape), x / (1 - share), 0.0)


class Encoder(nnx.Module):
    """Backbone and projection; returns pooled features [N, D] and embeddings [N, d]."""

    def __init__(self, backbone: nnx.Module, projector: nnx.Module):
        self.backbone, self.projector = backbone, projector

    def __call__(self, x: Float[Array, "n *space c"], *, train: bool):
        features = self.backbone(x, train=train)["pooled"]
        return features, self.projector(features, train=train)
