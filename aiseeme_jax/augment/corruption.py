"""Damage done to one image [H, W, C] or volume [D, H, W, C], for a network to restore.

A pixel moves with all its channels. Random operations are pure functions of the key.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

# Halvings of [0, 1] until the curve's parameter is known to the precision of float32.
HALVINGS = 22
# Distance of a box from the border (Models Genesis).
MARGIN = 3

Scalar = Float[Array, ""] | float


def swap_patches(
    key: PRNGKeyArray, image: Shaped[Array, "*space c"], *, size: int, swaps: int
) -> Shaped[Array, "*space c"]:
    """Swaps two patches that do not overlap, `swaps` times in a row (Chen et al., 2019, algorithm 1).

    Args:
      size: side of the patches, squares or cubes, in pixels.

    The first patch of a pair may lie anywhere. The second does not overlap it along one random axis, and may lie
    anywhere along the others. Raises ValueError if the patches are so large that there may be no such place.
    """
    *space, channels = image.shape
    if not 1 <= size <= (min(space) + 1) // 3:
        raise ValueError(
            f"patches to swap have 1 to {(min(space) + 1) // 3} px, about a third of an image of "
            f"{' x '.join(map(str, space))} px, not {size}"
        )
    window = (*[size] * len(space), channels)

    def swap(image: Array, key: PRNGKeyArray) -> tuple[Array, None]:
        first, second = ((*start, 0) for start in _apart(key, jnp.array(space), size))
        ours, theirs = (jax.lax.dynamic_slice(image, start, window) for start in (first, second))
        image = jax.lax.dynamic_update_slice(image, theirs, first)
        return jax.lax.dynamic_update_slice(image, ours, second), None

    return jax.lax.scan(swap, image, jax.random.split(key, swaps))[0]


def _apart(key: PRNGKeyArray, space: Int[Array, "d"], size: int) -> tuple[Int[Array, "d"], Int[Array, "d"]]:
    """Where two patches start that do not overlap."""
    first_key, second_key, far_key, axis_key = jax.random.split(key, 4)
    places = space - size + 1
    first, second = (jax.random.randint(k, space.shape, 0, places) for k in (first_key, second_key))
    before, after = jnp.maximum(first - size + 1, 0), jnp.maximum(places - first - size, 0)
    far = jax.random.randint(far_key, space.shape, 0, before + after)
    far = jnp.where(far < before, far, far - before + first + size)
    axis = jax.random.randint(axis_key, (), 0, len(space))
    return first, jnp.where(jnp.arange(len(space)) == axis, far, second)


def bezier(
    values: Float[Array, "*any"],
    first: tuple[Scalar, Scalar],
    second: tuple[Scalar, Scalar],
    *,
    falling: Bool[Array, ""] | bool = False,
) -> Float[Array, "*any"]:
    """A transfer curve of intensities: y where a cubic Bézier curve has x = `values`.

    Args:
      values: in [0, 1]; so is the result.
      first, second: control points (x, y) in the unit square. From (0, 0) to (1, 1), x and y never decrease.
      falling: takes y from the other end of the curve: dark becomes bright.

    Source: Zhou et al., 2019 (Models Genesis), section 2.2 and their code, which reverses half of the curves.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        short = _cubic(middle, first[0], second[0]) < values
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros_like(values), jnp.ones_like(values)))
    place = (low + high) / 2
    return _cubic(jnp.where(falling, 1 - place, place), first[1], second[1])


def _cubic(t: Float[Array, "*any"], a: Scalar, b: Scalar) -> Float[Array, "*any"]:
    """A coordinate of the curve with ends 0 and 1."""
    return 3 * (1 - t) ** 2 * t * a + 3 * (1 - t) * t**2 * b + t**3


def random_blocks(key: PRNGKeyArray, space: Sequence[int], *, largest: int) -> Int[Array, "*space"]:
    """The number of each pixel's block. Blocks tile the image; their sides are drawn from 1 to `largest`."""
    blocks = jnp.zeros(tuple(space), jnp.int32)
    for axis, (side, axis_key) in enumerate(zip(space, jax.random.split(key, len(space)), strict=True)):
        ends = jnp.cumsum(jax.random.randint(axis_key, (side,), 1, largest + 1))
        number = jnp.searchsorted(ends, jnp.arange(side), side="right").astype(jnp.int32)
        blocks = blocks * side + jnp.expand_dims(number, [i for i in range(len(space)) if i != axis])
    return blocks


def shuffle_within(
    key: PRNGKeyArray, image: Shaped[Array, "*space c"], blocks: Int[Array, "*space"]
) -> Shaped[Array, "*space c"]:
    """Shuffles the pixels within each block."""
    blocks = blocks.ravel()
    there = jnp.argsort(blocks)
    drawn = jnp.lexsort((jax.random.bits(key, blocks.shape), blocks))
    source = jnp.zeros_like(there).at[there].set(drawn)
    return image.reshape(-1, image.shape[-1])[source].reshape(image.shape)


def random_boxes(
    key: PRNGKeyArray,
    space: Sequence[int],
    *,
    count: int,
    sides: Sequence[tuple[int, int]],
    sure: int,
    more: float,
    margin: int = MARGIN,
) -> Bool[Array, "*space"]:
    """True inside the union of up to `count` boxes.

    Args:
      sides: shortest and longest side along each axis.
      sure: number of boxes that always exist. Each further box follows the one before with probability `more`.
      margin: distance from the border; less if a box is too large for it.
    """
    chance_key, side_key, place_key = jax.random.split(key, 3)
    there = jnp.cumprod(jax.random.bernoulli(chance_key, more, (count,)) | (jnp.arange(count) < sure)).astype(bool)
    shortest, longest = jnp.array(sides).T
    lengths = jax.random.randint(side_key, (count, len(space)), shortest, longest + 1)
    room = jnp.array(space) - lengths
    margin = jnp.minimum(margin, room // 2)
    starts = margin + jax.random.randint(place_key, lengths.shape, 0, room - 2 * margin + 1)
    inside = there.reshape(-1, *[1] * len(space))
    for axis, side in enumerate(space):
        along = jnp.arange(side)[None] - starts[:, axis, None]
        along = (along >= 0) & (along < lengths[:, axis, None])
        inside = inside & jnp.expand_dims(along, [i + 1 for i in range(len(space)) if i != axis])
    return jnp.any(inside, axis=0)


def inner_boxes(key: PRNGKeyArray, space: Sequence[int]) -> Bool[Array, "*space"]:
    """The boxes that in-painting of Models Genesis paints over: at most five, with sides of a sixth to a third.

    Each box, also the first, follows with probability 0.95. Source: the published code.
    """
    sides = [(max(side // 6, 1), max(side // 3, 1)) for side in space]
    return random_boxes(key, space, count=5, sides=sides, sure=0, more=0.95)


def outside_boxes(key: PRNGKeyArray, space: Sequence[int]) -> Bool[Array, "*space"]:
    """The area that out-painting of Models Genesis paints over: all but 1 to 5 boxes, with sides of 3/7 to 4/7.

    Each box after the first follows with probability 0.95. Source: the published code.
    """
    sides = [(side - 4 * side // 7, side - 3 * side // 7) for side in space]
    return ~random_boxes(key, space, count=5, sides=sides, sure=1, more=0.95)
