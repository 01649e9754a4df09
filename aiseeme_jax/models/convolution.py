"""Convolution and pooling of maps and of volumes, for cases in which XLA's own are slow on a CPU.

XLA's convolution of maps is fast, unless the map is smaller than the kernel, as in the last stage of a network on small
images. There, on a CPU, it is ten to twenty times as slow as a matrix product of the shifted maps. (A ResNet-18 of half
width on 64 pixels spent two thirds of its training step in three such layers.) XLA's convolution of volumes is always
slow on a CPU. A sum of convolutions of maps, one for each plane of the kernel, is faster.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

PLANES = ("NHWC", "HWIO", "NHWC")


def make_convolution(
    channels: int,
    filters: int,
    size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    dimensions: int,
    dtype: Any,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution layer of maps (`dimensions` 2) or volumes (3) with an odd window of `size` in every direction.

    Padding keeps the size if the stride is 1. The layer computes in `dtype` with float32 parameters. It has no bias,
    since a norm follows. Weights start as in He et al. (2015), by the fan out.
    """
    return nnx.Conv(
        channels,
        filters,
        (size,) * dimensions,
        strides=stride,
        padding=dilation * (size // 2),
        kernel_dilation=dilation,
        use_bias=False,
        dtype=dtype,
        param_dtype=jnp.float32,
        conv_general_dilated=convolve,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        rngs=rngs,
    )


def convolve(
    maps: Float[Array, "b *space c"],
    kernel: Float[Array, "*window c f"],
    strides: tuple[int, ...],
    padding: list[tuple[int, int]],
    **options,
) -> Float[Array, "b *out f"]:
    """Replaces `jax.lax.conv_general_dilated` in `nnx.Conv`: channels last, no groups."""
    if any(dilation > 1 for dilation in options.get("rhs_dilation") or ()):
        return jax.lax.conv_general_dilated(maps, kernel, strides, padding, **options)
    sides = _sides(maps.shape[1:-1], kernel.shape[:-2], strides, padding)
    if all(side < size for side, size in zip(sides, kernel.shape[:-2], strict=True)):
        return _as_product(maps, kernel, strides, padding, sides)
    if len(sides) == 3 and jax.default_backend() == "cpu":
        return _as_planes(maps, kernel, strides, padding, sides[0])
    return jax.lax.conv_general_dilated(maps, kernel, strides, padding, **options)


def _sides(space, window, strides, padding) -> list[int]:
    """Sides of the result of a window that moves over a padded space."""
    return [
        (side + sum(pad) - size) // stride + 1
        for side, size, stride, pad in zip(space, window, strides, padding, strict=True)
    ]


def _as_product(
    maps: Float[Array, "b *space c"],
    kernel: Float[Array, "*window c f"],
    strides: tuple[int, ...],
    padding: list[tuple[int, int]],
    sides: list[int],
) -> Float[Array, "b *out f"]:
    """Multiplies shifted copies of the maps, one for each place in the kernel, by the kernel as a matrix."""
    padded = jnp.pad(maps, ((0, 0), *padding, (0, 0)))
    ends = [(side - 1) * stride + 1 for side, stride in zip(sides, strides, strict=True)]
    places = itertools.product(*(range(size) for size in kernel.shape[:-2]))
    shifted = [
        padded[:, *(slice(i, i + end, stride) for i, end, stride in zip(place, ends, strides, strict=True))]
        for place in places
    ]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _as_planes(
    volumes: Float[Array, "b d h w c"],
    kernel: Float[Array, "j k l c f"],
    strides: tuple[int, ...],
    padding: list[tuple[int, int]],
    depth: int,
) -> Float[Array, "b z y x f"]:
    """Sums over the planes of the kernel. Each is convolved with the planes of the volume that it meets."""
    padded = jnp.pad(volumes, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
    total = 0.0
    for i, plane in enumerate(kernel):
        met = padded[:, i : i + (depth - 1) * strides[0] + 1 : strides[0]]
        flat = convolve(met.reshape(-1, *met.shape[2:]), plane, strides[1:], padding[1:], dimension_numbers=PLANES)
        total = total + flat.reshape(met.shape[0], depth, *flat.shape[1:])
    return total


def max_pool(maps: Float[Array, "b *space c"]) -> Float[Array, "b *out c"]:
    """The pooling of a ResNet: the largest of 3x3(x3) pixels around every second pixel, with a border of one pixel.

    It uses strided slices, because the gradient of XLA's window operation takes ten times as long. Equal values share
    the gradient.
    """
    low = jnp.finfo(maps.dtype).min
    space = range(1, maps.ndim - 1)
    ends = {axis: 2 * ((maps.shape[axis] - 1) // 2) + 1 for axis in space}
    maps = jnp.pad(maps, ((0, 0), *((1, 1) for _ in space), (0, 0)), constant_values=low)
    for axis, end in ends.items():
        three = [jax.lax.slice_in_dim(maps, i, i + end, stride=2, axis=axis) for i in range(3)]
        maps = jnp.maximum(jnp.maximum(three[0], three[1]), three[2])
    return maps
