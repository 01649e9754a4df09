"""Decoders: from the maps of a backbone to the size of its images. They belong to a task, not to the backbone."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.models.convolution import make_convolution
from aiseeme_jax.models.resnet import Norm

# Endpoints that are maps, the finest first.
MAPS = ("stem", "stage1", "stage2", "stage3", "stage4")
# Channels of the widest layer, and of the narrowest.
WIDEST, NARROWEST = 256, 8


class Decoder(nnx.Module):
    """Doubles the last map of a backbone until it is as large as the image, with a convolution after each doubling.

    Each convolution is 3x3(x3). Batch normalisation and ReLU follow it. A linear layer on each pixel comes last. The
    first layer has half the backbone's features, at most 256. Each further layer has half as many as the one before, at
    least 8.

    Args:
      backbone: of images or volumes. The sizes of its maps decide how many doublings there are. Any sizes are possible.
      size: side of its (square, cubic) images in pixels.
      out: channels of the result.
      dimensions: 2 for images, 3 for volumes.
      skips: concatenate the backbone's finer maps with the doubled ones (Ronneberger et al. 2015, U-Net). If several
        maps have the same size, the last is used. Without skips, the last map is the only input.
      stride: side of the image divided by that of the result.
      dtype: of the convolutions. The result is float32.

    Attributes:
      side: of the result: `size` / `stride`, rounded up, or the side of the last map if that is larger.
    """

    def __init__(
        self,
        backbone: nnx.Module,
        size: int,
        out: int,
        *,
        dimensions: int,
        skips: bool,
        stride: int = 1,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.size, self.out, self.dimensions, self.skips, self.stride = size, out, dimensions, skips, stride
        self.dtype = jnp.dtype(dtype)
        shapes = _map_shapes(backbone, (size,) * dimensions)
        self.start = [name for name in MAPS if name in shapes][-1]
        (side, *_, channels), target = shapes[self.start], -(-size // stride)
        finer = {shapes[name][0]: name for name in MAPS if skips and name in shapes}
        steps, convolutions, norms = [], [], []
        kind = {"dimensions": dimensions, "dtype": jnp.dtype(dtype), "rngs": rngs}
        width = min(channels // 2, WIDEST)
        while side < target:
            side = min(s for s in (*finer, 2 * side, target) if s > side)
            width = max(width, NARROWEST)
            beside = shapes[finer[side]][-1] if side in finer else 0
            convolutions.append(make_convolution(channels + beside, width, 3, **kind))
            norms.append(Norm(width, rngs=rngs))
            steps.append((side, finer.get(side)))
            channels, width = width, width // 2
        self.side, self.steps = side, tuple(steps)
        self.convolutions, self.norms = nnx.List(convolutions), nnx.List(norms)
        self.head = nnx.Linear(channels, out, rngs=rngs)

    @property
    def config(self) -> dict[str, Any]:
        """JSON values: the arguments beside the backbone that make this decoder again."""
        names = ("size", "out", "dimensions", "skips", "stride")
        return {**{name: getattr(self, name) for name in names}, "dtype": self.dtype.name}

    def __call__(self, endpoints: dict[str, Array], *, train: bool) -> Float[Array, "b *space c"]:
        """The result for the endpoints of a batch: [B, H, W, out], or of volumes [B, D, H, W, out]."""
        x = endpoints[self.start]
        for (side, skip), convolution, norm in zip(self.steps, self.convolutions, self.norms, strict=True):
            x = _enlarge(x, side)
            x = x if skip is None else jnp.concatenate([x, endpoints[skip].astype(x.dtype)], axis=-1)
            x = jax.nn.relu(norm(convolution(x), train=train))
        return self.head(x.astype(jnp.float32))


def _map_shapes(backbone: nnx.Module, space: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shape of each map of the backbone, without the batch axis. Nothing is computed."""
    graph, state = nnx.split(backbone)
    images = jax.ShapeDtypeStruct((1, *space, backbone.channels), jnp.float32)
    run = lambda state, x: nnx.merge(graph, state)(x, train=False)  # noqa: E731
    endpoints = jax.eval_shape(run, nnx.as_pure(state), images)
    return {name: endpoints[name].shape[1:] for name in MAPS if name in endpoints}


def _enlarge(maps: Float[Array, "b *space c"], side: int) -> Float[Array, "b *larger c"]:
    """Repeats every pixel, and cuts off what is too much."""
    for axis in range(1, maps.ndim - 1):
        times = -(-side // maps.shape[axis])
        maps = jax.lax.slice_in_dim(jnp.repeat(maps, times, axis=axis), 0, side, axis=axis)
    return maps
