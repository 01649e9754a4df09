"""The parts of an adversarial autoencoder of patches: encoder, decoder, and two critics (Makhzani et al., 1511.05644).

All sizes are ours.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.models.resnet import Norm

# Channels of each convolution, as multiples of the width; each halves the side of the map.
WIDTHS = (1, 2, 4, 8)
REDUCTION = 2 ** len(WIDTHS)
# Slope of the leaky ReLU below zero.
SLOPE = 0.2
# Units of the hidden layers of the critic of codes.
HIDDEN = 256

Image = Float[Array, "m s s c"]
Map = Float[Array, "m h w f"]


def halving(channels: int, filters: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(channels, filters, (4, 4), strides=2, padding=1, use_bias=False, rngs=rngs)


class Encoder(nnx.Module):
    """Convolutions of 4x4 with stride 2, each with batch normalisation and leaky ReLU."""

    def __init__(self, channels: int, width: int, *, rngs: nnx.Rngs):
        filters = [width * factor for factor in WIDTHS]
        inputs = [channels, *filters[:-1]]
        self.convolutions = nnx.List(halving(i, o, rngs) for i, o in zip(inputs, filters, strict=True))
        self.norms = nnx.List(Norm(o, rngs=rngs) for o in filters)
        self.channels = tuple(filters)

    def __call__(self, x: Image, *, train: bool) -> list[Map]:
        """The maps of all layers, the largest first."""
        maps = []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = jax.nn.leaky_relu(norm(convolution(x), train=train), SLOPE)
            maps.append(x)
        return maps


class Autoencoder(nnx.Module):
    """Encoder, a code of few channels, and a decoder that mirrors the encoder.

    Args:
      channels: of the images, with values in [-1, 1].
      width: channels of the largest maps.
      code: channels of the code, whose side is a sixteenth of the image's.
    """

    def __init__(self, channels: int, width: int, code: int, *, rngs: nnx.Rngs):
        self.encoder = Encoder(channels, width, rngs=rngs)
        self.to_code = nnx.Conv(width * WIDTHS[-1], code, (1, 1), rngs=rngs)
        self.from_code = nnx.Conv(code, width * WIDTHS[-1], (1, 1), use_bias=False, rngs=rngs)
        self.first_norm = Norm(width * WIDTHS[-1], rngs=rngs)
        filters = [width * factor for factor in reversed(WIDTHS)]
        outputs = [*filters[1:], channels]
        last = len(outputs) - 1
        self.convolutions = nnx.List(
            nnx.ConvTranspose(i, o, (4, 4), strides=(2, 2), padding="SAME", use_bias=place == last, rngs=rngs)
            for place, (i, o) in enumerate(zip(filters, outputs, strict=True))
        )
        self.norms = nnx.List(Norm(o, rngs=rngs) for o in outputs[:-1])

    def encode(self, images: Image, *, train: bool) -> tuple[list[Map], Map]:
        """The maps of the encoder, and the code."""
        maps = self.encoder(images, train=train)
        return maps, self.to_code(maps[-1])

    def decode(self, code: Map, *, train: bool) -> Image:
        x = jax.nn.relu(self.first_norm(self.from_code(code), train=train))
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = jax.nn.relu(norm(convolution(x), train=train))
        return jnp.tanh(self.convolutions[-1](x))

    def __call__(self, images: Image, *, train: bool) -> tuple[Image, Map]:
        """The reconstruction, and the code."""
        _, code = self.encode(images, train=train)
        return self.decode(code, train=train), code


class ImageCritic(nnx.Module):
    """Tells images from reconstructions: the shape of the encoder, and one logit."""

    def __init__(self, channels: int, width: int, size: int, *, rngs: nnx.Rngs):
        self.encoder = Encoder(channels, width, rngs=rngs)
        self.last = nnx.Linear(width * WIDTHS[-1] * (size // REDUCTION) ** 2, 1, rngs=rngs)

    def __call__(self, images: Image) -> Float[Array, " m"]:
        found = self.encoder(images, train=True)[-1]
        return self.last(found.reshape(len(found), -1))[:, 0]


class CodeCritic(nnx.Module):
    """Tells samples of the prior, a normal distribution, from codes: two hidden layers, and one logit."""

    def __init__(self, shape: tuple[int, ...], *, rngs: nnx.Rngs):
        widths = (math.prod(shape), HIDDEN, HIDDEN)
        self.layers = nnx.List(nnx.Linear(i, o, rngs=rngs) for i, o in zip(widths[:-1], widths[1:], strict=True))
        self.last = nnx.Linear(HIDDEN, 1, rngs=rngs)

    def __call__(self, codes: Map) -> Float[Array, " m"]:
        x = codes.reshape(len(codes), -1)
        for layer in self.layers:
            x = jax.nn.leaky_relu(layer(x), SLOPE)
        return self.last(x)[:, 0]
