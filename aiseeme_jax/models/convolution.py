"""Convolution and pooling of maps, where XLA's own are slow on a CPU.

XLA's convolution is fast except where the map is smaller than the kernel, as in the last stage of a network on
small images: there, on a CPU, it is ten to twenty times as slow as a matrix product of the shifted maps. (A
ResNet-18 of half width on 64 pixels spent two thirds of its training step in three such layers.)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def convolve(
    maps: Float[Array, "b h w c"],
    kernel: Float[Array, "k l c f"],
    strides: tuple[int, int],
    padding: list[tuple[int, int]],
    **options,
) -> Float[Array, "b y x f"]:
    """Stands in for `jax.lax.conv_general_dilated` in `nnx.Conv`: channels last, undilated, ungrouped."""
    sides = [
        (side + sum(pad) - size) // stride + 1
        for side, size, stride, pad in zip(maps.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    ]
    if all(side < size for side, size in zip(sides, kernel.shape[:2], strict=True)):
        return _as_product(maps, kernel, strides, padding, sides)
    return jax.lax.conv_general_dilated(maps, kernel, strides, padding, **options)


def _as_product(
    maps: Float[Array, "b h w c"],
    kernel: Float[Array, "k l c f"],
    strides: tuple[int, int],
    padding: list[tuple[int, int]],
    sides: list[int],
) -> Float[Array, "b y x f"]:
    """One copy of the maps for each place in the kernel, side by side, times the kernel as a matrix."""
    padded = jnp.pad(maps, ((0, 0), *padding, (0, 0)))
    ends = [(side - 1) * stride + 1 for side, stride in zip(sides, strides, strict=True)]
    rows, columns, channels, filters = kernel.shape
    shifted = [
        padded[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        for i in range(rows)
        for j in range(columns)
    ]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(rows * columns * channels, filters)


def max_pool(maps: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    """Largest value of 3x3 pixels, every second one, the border padded by one: the pooling of a ResNet.

    Of strided slices, because the gradient of XLA's window operation takes ten times as long. Where values tie,
    they share the gradient.
    """
    low = jnp.finfo(maps.dtype).min
    padded = jnp.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=low)
    rows, columns = ((side - 1) // 2 + 1 for side in maps.shape[1:3])
    tall = [padded[:, i : i + 2 * rows - 1 : 2] for i in range(3)]
    tall = jnp.maximum(jnp.maximum(tall[0], tall[1]), tall[2])
    wide = [tall[:, :, i : i + 2 * columns - 1 : 2] for i in range(3)]
    return jnp.maximum(jnp.maximum(wide[0], wide[1]), wide[2])
