"""Colour as lightness and two opponents: CIE L*a*b* (1976) of sRGB (IEC 61966-2-1) under its white point D65.

L* runs from 0 to 100, a* (green to red) and b* (blue to yellow) from about -110 to 110; a* = b* = 0 is grey.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Linear sRGB to XYZ, each row divided by the white point's coordinate, so that white is (1, 1, 1).
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = TO_XYZ.sum(axis=1, keepdims=True)
# Below this the formula uses a straight line instead of the cube root.
KNEE = 6 / 29
# Number of values of each channel. Their combinations represent all colours of sRGB.
LEVELS = 64


def to_lab(image: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Converts sRGB in [0, 1] to L*, a*, b*."""
    return _lab(image, jnp)


def lightness_as_grey(image: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """The grey of the same lightness, in three equal channels: L* stays, a* and b* become 0."""
    linear = _linear(image, jnp)
    # Written out, so that the compiler merges it with other operations, in float32 on every device.
    y = sum(float(weight) * linear[..., c] for c, weight in enumerate((TO_XYZ / WHITE)[1]))
    grey = jnp.where(y <= 0.0031308, 12.92 * y, 1.055 * jnp.maximum(y, 0.0031308) ** (1 / 2.4) - 0.055)
    return jnp.broadcast_to(grey[..., None], image.shape)


@functools.lru_cache
def colour_bins(step: int = 10) -> Float[np.ndarray, "bins 2"]:
    """Centres (a*, b*), multiples of `step`, of those squares of a grid that contain a colour of sRGB."""
    levels = np.linspace(0, 1, LEVELS)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    return step * np.unique(np.round(_lab(colours, np)[:, 1:] / step), axis=0)


def nearest_bin(ab: Float[Array, "... 2"], step: int = 10) -> Int[Array, "..."]:
    """For each (a*, b*), the number of the nearest centre of `colour_bins`."""
    table, corner = _table(step)
    place = jnp.round(ab / step).astype(jnp.int32) - corner
    place = jnp.clip(place, 0, jnp.array(table.shape) - 1)
    return jnp.asarray(table)[place[..., 0], place[..., 1]]


@functools.lru_cache
def _table(step: int) -> tuple[Int[np.ndarray, "a b"], Int[np.ndarray, "2"]]:
    """A table for a rectangle around all colours: for each square the nearest bin. Second, the rectangle's corner."""
    bins = colour_bins(step) / step
    corner, end = bins.min(axis=0).astype(int), bins.max(axis=0).astype(int)
    squares = np.stack(np.meshgrid(*(np.arange(c, e + 1) for c, e in zip(corner, end, strict=True)), indexing="ij"), -1)
    distance = np.square(squares[:, :, None] - bins).sum(axis=-1)
    return distance.argmin(axis=-1).astype(np.int32), corner.astype(np.int32)


def _linear(image, xp):
    """sRGB without its gamma."""
    return xp.where(image <= 0.04045, image / 12.92, ((xp.maximum(image, 0.04045) + 0.055) / 1.055) ** 2.4)


def _lab(image, xp):
    linear = _linear(image, xp)
    x, y, z = (sum(float(weight) * linear[..., c] for c, weight in enumerate(row)) for row in TO_XYZ / WHITE)
    root = [xp.where(t > KNEE**3, xp.cbrt(t), t / (3 * KNEE**2) + 4 / 29) for t in (x, y, z)]
    return xp.stack([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])], axis=-1)
