"""Colour operations on one image with values in [0, 1]; the result is clipped to [0, 1].

The definitions are those of torchvision, which the published recipes use. Brightness blends the image with black,
contrast with its mean luminance, saturation with its luminance. Hue is turned in HSV. On one channel, saturation, hue
and grey change nothing. (dm-pix defines contrast and saturation differently. Its hue is the same, but its formula makes
`random_jitter` ten times as slow on a CPU.)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

# ITU-R BT.601 luma, the weights of the published recipes.
LUMINANCE = (0.299, 0.587, 0.114)

Image = Float[Array, "h w c"]
Scalar = Float[Array, ""] | float


def luminance(image: Image) -> Float[Array, "h w 1"]:
    """Weighted sum of red, green and blue."""
    if image.shape[-1] == 1:
        return image
    # Written out, so that the compiler merges it with other operations. A sum over the channel axis is a pass of its
    # own.
    return sum(weight * image[..., c : c + 1] for c, weight in enumerate(LUMINANCE))


def _blend(image: Image, other: Float[Array, "..."] | float, factor: Scalar) -> Image:
    """factor image + (1 - factor) other; a factor above 1 moves away from `other`."""
    return jnp.clip(factor * image + (1 - factor) * other, 0.0, 1.0)


def brightness(image: Image, factor: Scalar) -> Image:
    """Multiplies by `factor`."""
    return _blend(image, 0.0, factor)


def contrast(image: Image, factor: Scalar) -> Image:
    """Moves the values away from the mean luminance of the image, or towards it."""
    return _blend(image, jnp.mean(luminance(image)), factor)


def saturation(image: Image, factor: Scalar) -> Image:
    """Moves each pixel away from its luminance, or towards it: 0 is grey, 1 the image."""
    return _blend(image, luminance(image), factor)


def hue(image: Image, turn: Scalar) -> Image:
    """Turns the hue by a share of the colour circle, -0.5 to 0.5, keeping HSV saturation and value."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = image[..., 0:1], image[..., 1:2], image[..., 2:3]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    share = 1 / jnp.where(chroma > 0, chroma, 1.0)
    # The circle is six long, with red at 0, green at 2 and blue at 4.
    from_green, from_blue = 2 + (blue - red) * share, 4 + (red - green) * share
    angle = jnp.where(value == green, from_green, from_blue)
    angle = jnp.where(value == red, (green - blue) * share, angle) + 6 * turn
    # A channel is lowest where the hue is near the other two, and rises over one sixth of the circle.
    away = angle + jnp.asarray([5.0, 3.0, 1.0])
    away = away - 6 * jnp.floor(away / 6)
    return value - chroma * jnp.clip(jnp.minimum(away, 4 - away), 0.0, 1.0)


def grey(image: Image) -> Image:
    """Luminance in every channel."""
    return jnp.broadcast_to(luminance(image), image.shape)


def solarise(image: Image, threshold: Scalar = 0.5) -> Image:
    """Inverts the values at or above the threshold."""
    return jnp.where(image < threshold, image, 1 - image)


# Positions in the tuple of strengths.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def random_jitter(key: PRNGKeyArray, image: Image, strengths: tuple[float, float, float, float]) -> Image:
    """Brightness, contrast, saturation and hue in random order, each by a random amount.

    Args:
      strengths: of the four operations, in that order. The first three draw a factor from
        [max(0, 1 - s), 1 + s], hue draws a turn from [-s, s], uniformly. An operation of strength 0 is not
        applied.
    """
    possible = range(4) if image.shape[-1] == 3 else (BRIGHTNESS, CONTRAST)
    active = [operation for operation in possible if strengths[operation] > 0]
    if not active:
        return image
    amount_key, order_key = jax.random.split(key)
    low = jnp.asarray([-s if i == HUE else max(0.0, 1 - s) for i, s in enumerate(strengths)])
    high = jnp.asarray([s if i == HUE else 1 + s for i, s in enumerate(strengths)])
    amounts = jax.random.uniform(amount_key, (4,), minval=low, maxval=high)
    order = jax.random.permutation(order_key, jnp.asarray(active))

    def step(image: Image, chosen: tuple[Int[Array, ""], Float[Array, ""]]) -> tuple[Image, None]:
        operation, amount = chosen
        blended = _chosen_blend(operation, image, amount)
        return jnp.where(operation == HUE, hue(image, amount), blended) if HUE in active else blended, None

    # A scan, because in an unrolled loop the compiler computes earlier operations again for every use of their result.
    return jax.lax.scan(step, image, (order, amounts[order]))[0]


def _chosen_blend(operation: Int[Array, ""], image: Image, factor: Scalar) -> Image:
    """Brightness, contrast or saturation. They differ only in what the image is blended with."""
    pixel = luminance(image)
    other = jnp.where(operation == CONTRAST, jnp.mean(pixel), pixel)
    return _blend(image, jnp.where(operation == BRIGHTNESS, 0.0, other), factor)
