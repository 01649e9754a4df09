"""Colour operations on one image with values in [0, 1]; the result is clipped to [0, 1].

Definitions follow torchvision, with which the recipes of the field were published: brightness, contrast and
saturation blend the image with black, with its mean luminance, with its luminance; hue turns in HSV. On one
channel saturation, hue and grey change nothing.

dm-pix gives hue and solarise. Its contrast and saturation are other operations (mean of each channel, HSV).
"""

import dm_pix
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
    return jnp.sum(image * jnp.asarray(LUMINANCE, image.dtype), axis=-1, keepdims=True)


def _blend(image: Image, other: Float[Array, "..."] | float, factor: Scalar) -> Image:
    """factor image + (1 - factor) other; a factor above 1 moves away from `other`."""
    return jnp.clip(factor * image + (1 - factor) * other, 0.0, 1.0)


def brightness(image: Image, factor: Scalar) -> Image:
    """Multiplies by `factor`."""
    return _blend(image, 0.0, factor)


def contrast(image: Image, factor: Scalar) -> Image:
    """Stretches about the mean luminance of the image."""
    return _blend(image, jnp.mean(luminance(image)), factor)


def saturation(image: Image, factor: Scalar) -> Image:
    """Stretches each pixel about its luminance: 0 is grey, 1 the image."""
    return _blend(image, luminance(image), factor)


def hue(image: Image, turn: Scalar) -> Image:
    """Turns the hue by a share of the colour circle, -0.5 to 0.5, keeping HSV saturation and value."""
    if image.shape[-1] == 1:
        return image
    return jnp.clip(dm_pix.adjust_hue(image, turn), 0.0, 1.0)


def grey(image: Image) -> Image:
    """Luminance in every channel."""
    return jnp.broadcast_to(luminance(image), image.shape)


def solarise(image: Image, threshold: Scalar = 0.5) -> Image:
    """Inverts the values at or above the threshold."""
    return dm_pix.solarize(image, threshold)


# Places in the tuple of strengths.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def random_jitter(key: PRNGKeyArray, image: Image, strengths: tuple[float, float, float, float]) -> Image:
    """Brightness, contrast, saturation and hue in random order, each by a random amount.

    Args:
      strengths: of the four operations, in that order. The first three draw a factor from
        [max(0, 1 - s), 1 + s], hue draws a turn from [-s, s], uniformly. An operation of strength 0 is left out.
    """
    possible = range(4) if image.shape[-1] == 3 else (BRIGHTNESS, CONTRAST)
    active = [operation for operation in possible if strengths[operation] > 0]
    if not active:
        return image
    amount_key, order_key = jax.random.split(key)
    low = jnp.asarray([-s if i == HUE else max(0.0, 1 - s) for i, s in enumerate(strengths)])
    high = jnp.asarray([s if i == HUE else 1 + s for i, s in enumerate(strengths)])
    amounts = jax.random.uniform(amount_key, (4,), minval=low, maxval=high)
    for operation in jax.random.permutation(order_key, jnp.asarray(active)):
        jittered = _chosen_blend(operation, image, amounts[operation])
        if HUE in active:
            jittered = jnp.where(operation == HUE, hue(image, amounts[HUE]), jittered)
        image = jittered
    return image


def _chosen_blend(operation: Int[Array, ""], image: Image, factor: Scalar) -> Image:
    """Brightness, contrast or saturation. Choosing what to blend with takes half the time of choosing a result."""
    pixel = luminance(image)
    other = jnp.where(operation == CONTRAST, jnp.mean(pixel), pixel)
    return _blend(image, jnp.where(operation == BRIGHTNESS, 0.0, other), factor)
