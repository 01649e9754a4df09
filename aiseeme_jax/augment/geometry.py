"""Geometric operations on one image: crop and resize, flips, right angles, rotation.

Coordinates are continuous and measured in pixels from the top left corner of the image: pixel i covers i to
i + 1 and its centre lies at i + 0.5. Angles turn counter-clockwise, as in `numpy.rot90`. Only `random_box`
draws random numbers.

A crop is two matrix products, one for rows and one for columns. A flip only reverses the direction in which the crop
is read, so it costs nothing.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

# A crop is drawn at most so many times until it fits the image, as in the published recipe.
ATTEMPTS = 10


class Box(NamedTuple):
    """A rectangle of an image. A negative height or width reads it backwards: a flip."""

    top: Float[Array, ""] | float
    left: Float[Array, ""] | float
    height: Float[Array, ""] | float
    width: Float[Array, ""] | float


def random_box(
    key: PRNGKeyArray, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """The box of a random resized crop (Szegedy et al. 2015, "Going deeper with convolutions", section 6).

    Args:
      scale: range of the share of the image's area, uniform.
      ratio: range of width / height, uniform in its logarithm.

    If no attempt fits, the result is the largest box of an allowed ratio.
    """
    *attempts, place = jax.random.uniform(key, (ATTEMPTS + 1, 2))
    share, shape = jnp.stack(attempts, axis=1)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
    aspect = jnp.exp(low + (high - low) * shape)
    heights, widths = jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)
    # The tolerance admits the whole image if rounding makes it a little too large.
    fits = (heights <= height * (1 + 1e-5)) & (widths <= width * (1 + 1e-5))
    first = jnp.argmax(fits)
    largest = min(max(width / height, ratio[0]), ratio[1])
    largest_width = min(float(width), height * largest)
    box_height = jnp.where(fits[first], jnp.minimum(heights[first], height), largest_width / largest)
    box_width = jnp.where(fits[first], jnp.minimum(widths[first], width), largest_width)
    return Box(place[0] * (height - box_height), place[1] * (width - box_width), box_height, box_width)


def flip(box: Box, rows: Bool[Array, ""], columns: Bool[Array, ""]) -> Box:
    """The same rectangle, read from bottom to top if `rows`, and from right to left if `columns`."""
    return Box(
        jnp.where(rows, box.top + box.height, box.top),
        jnp.where(columns, box.left + box.width, box.left),
        jnp.where(rows, -box.height, box.height),
        jnp.where(columns, -box.width, box.width),
    )


def enlarge(box: Box, factor: float) -> Box:
    """The box stretched about its centre."""
    margin = (factor - 1) / 2
    return Box(box.top - margin * box.height, box.left - margin * box.width, factor * box.height, factor * box.width)


def resample_weights(
    start: Float[Array, ""] | float, length: Float[Array, ""] | float, source: int, target: int
) -> Float[Array, "target source"]:
    """Weights that resample [start, start + length] of `source` pixels into `target` pixels.

    The kernel is a triangle, wider if the target is coarser than the source (antialiasing), and renormalised at the
    border. Pillow calls this BILINEAR. Positions outside the image are reflected into it.
    """
    step = jnp.asarray(length, jnp.float32) / target
    centres = _reflect(start + (jnp.arange(target) + 0.5) * step, source)
    distance = jnp.abs(jnp.arange(source) + 0.5 - centres[:, None])
    weights = jnp.maximum(0.0, 1 - distance / jnp.maximum(jnp.abs(step), 1.0))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def separable(
    image: Float[Array, "h w c"], rows: Float[Array, "s h"], columns: Float[Array, "t w"]
) -> Float[Array, "s t c"]:
    """Applies one matrix to the rows and another to the columns of an image."""
    # Rows first: [h, w c] is contiguous, so that this product needs no transpose.
    tall = jnp.einsum("sh,hwc->swc", rows, image, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("tw,swc->stc", columns, tall, precision=jax.lax.Precision.HIGHEST)


def crop_resize(image: Float[Array, "h w c"], box: Box, size: int) -> Float[Array, "size size c"]:
    """Resamples a box of the image into a square of `size` pixels, antialiased bilinear."""
    height, width, _ = image.shape
    rows = resample_weights(box.top, box.height, height, size)
    columns = resample_weights(box.left, box.width, width, size)
    return separable(image, rows, columns)


def crop_nearest(image: Shaped[Array, "h w c"], box: Box, size: int) -> Shaped[Array, "size size c"]:
    """The pixels of the image that the centres of the pixels of `crop_resize` lie in: for masks, which have no values
    in between.
    """
    height, width, _ = image.shape
    rows = _nearest_pixels(box.top, box.height, height, size)
    columns = _nearest_pixels(box.left, box.width, width, size)
    return image[rows][:, columns]


def _nearest_pixels(
    start: Float[Array, ""] | float, length: Float[Array, ""] | float, source: int, target: int
) -> Int[Array, "target"]:
    step = jnp.asarray(length, jnp.float32) / target
    centres = _reflect(start + (jnp.arange(target) + 0.5) * step, source)
    return jnp.clip(jnp.floor(centres).astype(jnp.int32), 0, source - 1)


def quarter_turn(image: Shaped[Array, "s s c"], turns: Int[Array, ""]) -> Shaped[Array, "s s c"]:
    """`numpy.rot90(image, turns)` for a square image and a traced number of turns."""
    turns = turns % 4
    image = jnp.where((turns == 1) | (turns == 2), image[:, ::-1], image)
    image = jnp.where((turns == 2) | (turns == 3), image[::-1], image)
    return jnp.where(turns % 2 == 1, image.swapaxes(0, 1), image)


def rotate90(images: Shaped[Array, "b s s c"], turns: Int[Array, "b"]) -> Shaped[Array, "b s s c"]:
    """Turns each image of a batch counter-clockwise by its own number of right angles.

    Raises:
      ValueError: the images are not square: a turn would change their shape.
    """
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ValueError(f"rotate90 needs square images [B, S, S, C], not {images.shape}: crop them first")
    return jax.vmap(quarter_turn)(images, turns)


def rotate(
    image: Shaped[Array, "h w c"],
    degrees: Float[Array, ""] | float,
    size: int | None = None,
    *,
    nearest: bool = False,
) -> Shaped[Array, "s t c"]:
    """Rotates counter-clockwise about the centre, bilinear, with a reflected border.

    Args:
      size: side of the central square to return; the shape of the image where None.
      nearest: takes the nearest pixel, of any type, instead of interpolating.
    """
    height, width, _ = image.shape
    rows, columns = (height, width) if size is None else (size, size)
    angle = jnp.deg2rad(jnp.asarray(degrees, jnp.float32))
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    down = (jnp.arange(rows) + 0.5 - rows / 2)[:, None]
    right = (jnp.arange(columns) + 0.5 - columns / 2)[None, :]
    # An output pixel reads the position that was turned to it. The row axis points down.
    y = _reflect(height / 2 + cosine * down + sine * right, height) - 0.5
    x = _reflect(width / 2 - sine * down + cosine * right, width) - 0.5
    y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    if nearest:
        return image[jnp.round(y).astype(jnp.int32), jnp.round(x).astype(jnp.int32)]
    return _bilinear(image, y, x)


def rotation_margin(degrees: float) -> float:
    """How much larger than a view a square must be to fill it after a rotation of at most `degrees`."""
    angle = math.radians(min(abs(degrees), 45.0))
    return math.cos(angle) + math.sin(angle)


def _reflect(position: Float[Array, "..."], length: int) -> Float[Array, "..."]:
    """Folds positions outside [0, length] back at the borders."""
    folded = jnp.mod(position, 2.0 * length)
    return jnp.minimum(folded, 2.0 * length - folded)


def _bilinear(image: Float[Array, "h w c"], y: Float[Array, "s t"], x: Float[Array, "s t"]) -> Float[Array, "s t c"]:
    """Interpolates at positions given as (fractional) indices inside the image."""
    top, left = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    bottom = jnp.minimum(top + 1, image.shape[0] - 1)
    right = jnp.minimum(left + 1, image.shape[1] - 1)
    down, across = (y - top)[..., None], (x - left)[..., None]
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    return upper * (1 - down) + lower * down
