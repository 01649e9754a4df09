"""The head of DeepLabv3+ (Chen et al., ECCV 2018) with the sizes of MB-DCNN: pyramid of dilated windows, and decoder.

Whole numbers of channels, rates and dropout are those of the authors' code of MB-DCNN (Xie et al., IEEE TMI 2020) for a
backbone with an output stride of 16; there they stand on an Xception, here on any ResNet.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax.models.convolution import make_convolution
from aiseeme_jax.models.resnet import Norm

# Channels of the map of the backbone that the decoder adds, and the endpoints that are read.
FINE_CHANNELS, FINE, COARSE = 48, "stage1", "stage4"
# Of the pyramid, and after each convolution of the decoder.
DROPOUT = (0.5, 0.5, 0.1)


class Layer(nnx.Module):
    """A convolution without bias, batch normalisation and ReLU."""

    def __init__(self, channels: int, filters: int, size: int, *, dilation: int = 1, dtype: Any, rngs: nnx.Rngs):
        kind = {"dimensions": 2, "dtype": dtype, "rngs": rngs}
        self.convolution = make_convolution(channels, filters, size, dilation=dilation, **kind)
        self.norm = Norm(filters, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w f"]:
        return jax.nn.relu(self.norm(self.convolution(x), train=train))


class DeepLabDecoder(nnx.Module):
    """One logit for each position of the finest map of the backbone.

    Args:
      backbone: of images, with the maps stage1 and stage4.
      width: channels of every layer; 256 is published.
      rates: distances of the pixels of the three windows of 3x3.
      maps: further maps that the caller gives, such as one of class activation.
      dtype: of the convolutions. The logits are float32.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        *,
        width: int = 256,
        rates: tuple[int, ...] = (6, 12, 18),
        maps: int = 0,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.width, self.rates, self.maps, self.dtype = width, tuple(rates), maps, jnp.dtype(dtype)
        channels, fine = backbone.features, backbone.stages[0][-1].features
        kind = {"dtype": self.dtype, "rngs": rngs}
        self.point = Layer(channels, width, 1, **kind)
        self.windows = nnx.List(Layer(channels, width, 3, dilation=rate, **kind) for rate in self.rates)
        self.pooled = Layer(channels, width, 1, **kind)
        self.joined = Layer((2 + len(self.rates)) * width, width, 1, **kind)
        if maps:
            self.added = Layer(width + maps, width, 1, **kind)
        self.fine = Layer(fine, FINE_CHANNELS, 1, **kind)
        self.first = Layer(width + FINE_CHANNELS, width, 3, **kind)
        self.second = Layer(width, width, 3, **kind)
        self.head = nnx.Linear(width, 1, rngs=rngs)

    @property
    def config(self) -> dict[str, Any]:
        """JSON values: the arguments beside the backbone that make this decoder again."""
        return {"width": self.width, "rates": list(self.rates), "maps": self.maps, "dtype": self.dtype.name}

    def __call__(
        self,
        endpoints: dict[str, Array],
        *,
        train: bool,
        key: PRNGKeyArray | None = None,
        maps: Float[Array, "b h w m"] | None = None,
    ) -> Float[Array, "b u v 1"]:
        """Logits in the size of stage1.

        Args:
          key: of the dropout in training.
          maps: [B, h, w, maps] of any size, if the decoder takes some.
        """
        keys = jax.random.split(key, len(DROPOUT)) if train else (None,) * len(DROPOUT)
        x = drop(self.apply_pyramid(endpoints[COARSE], train=train), DROPOUT[0], keys[0])
        if self.maps:
            x = self.added(jnp.concatenate([x, resize(maps, *x.shape[1:3]).astype(x.dtype)], axis=-1), train=train)
        fine = self.fine(endpoints[FINE], train=train)
        x = jnp.concatenate([resize(x, *fine.shape[1:3]), fine], axis=-1)
        x = drop(self.first(x, train=train), DROPOUT[1], keys[1])
        x = drop(self.second(x, train=train), DROPOUT[2], keys[2])
        return self.head(x.astype(jnp.float32))

    def apply_pyramid(self, last: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        """The windows of all rates beside each other, with the mean of the whole map, brought to `width` channels."""
        mean = self.pooled(jnp.mean(last, axis=(1, 2), keepdims=True), train=train)
        seen = [layer(last, train=train) for layer in (self.point, *self.windows)]
        whole = jnp.broadcast_to(mean, (*last.shape[:3], self.width))
        return self.joined(jnp.concatenate([*seen, whole], axis=-1), train=train)


def drop(x: Float[Array, "..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "..."]:
    """Dropout: sets a share of the values to 0, and divides the others by the rest. Without a key nothing is done."""
    if key is None:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


def resize(maps: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b u v c"]:
    """Maps in another size, bilinear, with the centres of the corner pixels kept where they are."""
    rows, columns = weigh_neighbours(maps.shape[1], height), weigh_neighbours(maps.shape[2], width)
    return jnp.einsum("bhwc,uh,vw->buvc", maps, rows.astype(maps.dtype), columns.astype(maps.dtype))


def weigh_neighbours(old: int, new: int) -> Float[Array, "n o"]:
    """How much each of `old` pixels in a row counts for each of `new` ones."""
    places = jnp.linspace(0.0, old - 1.0, new) if new > 1 else jnp.zeros(1)
    return jnp.maximum(0, 1 - jnp.abs(places[:, None] - jnp.arange(old)))
