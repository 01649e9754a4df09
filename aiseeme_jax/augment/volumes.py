"""Views of volumes: they turn int16 Hounsfield units (HU) into the input of a 3-D backbone.

Axes are (z, y, x). As with images, a crop is one matrix product for each axis, and so is a blur. A flip reverses the
direction in which the crop is read. Resampling averages densities, so it is done in HU, before the window.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int16, PRNGKeyArray, Shaped

from aiseeme_jax.augment.blur import blur_weights
from aiseeme_jax.augment.checks import check_fields, check_window
from aiseeme_jax.augment.geometry import resample_weights

# As for images, strengths of blur are in pixels of a view of this size.
REFERENCE_SIZE = 224
# Rotations that map a cube onto itself.
CUBE_ROTATIONS = 24


@dataclasses.dataclass(frozen=True)
class VolumeViews:
    """How views of a volume are made. Hashable, so that it can be a static argument.

    Attributes:
      dimensions: 3; distinguishes these fields from those of `Views`.
      size: side of the view in voxels.
      crop_scale: range of the share of the volume in a crop. The crop has the shape of the volume.
      flip_z, flip_y, flip_x: probabilities.
      right_angles: turn by one of the 24 rotations of a cube, with equal probabilities.
      window: the HU that become 0 and 1. Values beyond are clipped.
      jitter_probability: of another window: its middle is moved by up to `brightness` of its width either way, its
        width is multiplied by a factor from [1 - contrast, 1 + contrast].
      blur_probability: of a Gaussian blur.
      blur_sigma: its range, in pixels of a view of 224; scaled by size / 224.
      noise_probability: of Gaussian noise on every voxel.
      noise: range of its standard deviation, in units of [0, 1].
      mean, std: in units of [0, 1]. The defaults map [0, 1] to [-1, 1].
    """

    dimensions: int = 3
    size: int = 64
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip_z: float = 0.0
    flip_y: float = 0.0
    flip_x: float = 0.0
    right_angles: bool = False
    window: tuple[float, float] = (-1000.0, 400.0)
    jitter_probability: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    noise_probability: float = 0.0
    noise: tuple[float, float] = (0.0, 0.1)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self):
        check_fields(
            self,
            dimensions=3,
            at_least_zero=("brightness", "contrast"),
            ranges={"crop_scale": (0, 1), "blur_sigma": (0, math.inf)},
        )
        if self.contrast >= 1:
            raise ValueError(
                f"views.contrast of volumes must be below 1, so that the window has a width; it is {self.contrast}"
            )
        check_window(self.window)
        if len(self.noise) != 2 or not 0 <= self.noise[0] <= self.noise[1]:
            raise ValueError(f"views.noise must be (low, high) with 0 <= low <= high, not {self.noise}")


def check_volumes(volumes: Array) -> None:
    """Raises TypeError unless volumes are int16, ValueError unless they are [B, D, H, W, 1]."""
    if volumes.dtype != jnp.int16:
        raise TypeError(
            f"views of volumes are made of int16 HU, not {volumes.dtype}: pass the voxels as they were stored"
        )
    if volumes.ndim != 5 or volumes.shape[-1] != 1:
        raise ValueError(f"views of volumes are made of [B, D, H, W, 1], not {volumes.shape}")


def volume_view(key: PRNGKeyArray, volume: Int16[Array, "d h w 1"], views: VolumeViews) -> Float[Array, "s s s 1"]:
    """Draws one view, not normalised: crop, flips and turns, then the window, then blur, then noise.

    Values are in [0, 1], except where noise moves them out.
    """
    chance_key, noise_key = jax.random.split(key)
    # Drawn together, since each call of a generator takes time to compile.
    chance = iter(jax.random.uniform(chance_key, (15,)))
    share, turn, *place = (next(chance) for _ in range(5))
    flips = [next(chance) < p for p in (views.flip_z, views.flip_y, views.flip_x)]
    view = _crop(volume, views, share, place, flips)
    if views.right_angles:
        view = cube_rotation(view, jnp.floor(CUBE_ROTATIONS * turn).astype(jnp.int32))
    jitter, moved, stretched, blurred, sharpness, noisy, loudness = chance
    low, high = views.window
    middle, width = (low + high) / 2, high - low
    if views.jitter_probability > 0 and max(views.brightness, views.contrast) > 0:
        strength = jnp.where(jitter < views.jitter_probability, 1.0, 0.0)
        middle = middle + strength * views.brightness * (2 * moved - 1) * width
        width = width * (1 + strength * views.contrast * (2 * stretched - 1))
    view = jnp.clip((view - middle) / width + 0.5, 0.0, 1.0)
    if views.blur_probability > 0:
        soft, softest = (s * views.size / REFERENCE_SIZE for s in views.blur_sigma)
        sigma = jnp.where(blurred < views.blur_probability, soft + (softest - soft) * sharpness, 0.0)
        view = separable(view, *[blur_weights(views.size, sigma)] * 3)
    if views.noise_probability > 0:
        quiet, loud = views.noise
        deviation = jnp.where(noisy < views.noise_probability, quiet + (loud - quiet) * loudness, 0.0)
        view = view + deviation * jax.random.normal(noise_key, view.shape)
    return view


def whole_volume(volume: Int16[Array, "d h w 1"], views: VolumeViews) -> Float[Array, "s s s 1"]:
    """The view for evaluation: the whole volume resampled to the size of the views, in [0, 1]."""
    weights = [resample_weights(0.0, float(side), side, views.size) for side in volume.shape[:3]]
    return apply_window(separable(volume.astype(jnp.float32), *weights), views.window)


def apply_window(volume: Shaped[Array, "*any"], window: tuple[float, ...]) -> Float[Array, "*any"]:
    """Maps HU to [0, 1] by a window (low, high)."""
    low, high = window
    return jnp.clip((volume.astype(jnp.float32) - low) / (high - low), 0.0, 1.0)


def _crop(volume: Int16[Array, "d h w 1"], views: VolumeViews, share, place, flips) -> Float[Array, "s s s 1"]:
    """Resamples a box of the volume's shape, drawn by `share` and `place` in [0, 1), into a cube of HU."""
    low, high = views.crop_scale
    edge = jnp.cbrt(low + (high - low) * share)
    weights = []
    for side, along, flip in zip(volume.shape[:3], place, flips, strict=True):
        start, length = along * (1 - edge) * side, edge * side
        start, length = jnp.where(flip, start + length, start), jnp.where(flip, -length, length)
        weights.append(resample_weights(start, length, side, views.size))
    return separable(volume.astype(jnp.float32), *weights)


def separable(
    volume: Float[Array, "d h w c"], depth: Float[Array, "s d"], rows: Float[Array, "t h"], columns: Float[Array, "u w"]
) -> Float[Array, "s t u c"]:
    """Applies one matrix to each axis of a volume."""
    precision = jax.lax.Precision.HIGHEST
    volume = jnp.einsum("sd,dhwc->shwc", depth, volume, precision=precision)
    volume = jnp.einsum("th,shwc->stwc", rows, volume, precision=precision)
    return jnp.einsum("uw,stwc->stuc", columns, volume, precision=precision)


def cube_rotation(volume: Shaped[Array, "s s s c"], number: Int[Array, ""]) -> Shaped[Array, "s s s c"]:
    """Applies rotation `number` of the 24 of a cube, 0 to 23; 0 changes nothing.

    A rotation is an order of the axes and a direction of each. An odd order is a mirror image, so the last direction
    follows from the order and the other two.
    """
    order, directions = number % 6, number // 6
    odd, cycle = order % 2, order // 2
    volume = jnp.where(odd == 1, volume.swapaxes(0, 1), volume)
    turned = jnp.where(cycle == 1, volume.transpose(1, 2, 0, 3), volume.transpose(2, 0, 1, 3))
    volume = jnp.where(cycle == 0, volume, turned)
    first, second = directions % 2, directions // 2
    for axis, backwards in enumerate((first, second, (odd + first + second) % 2)):
        volume = jnp.where(backwards == 1, jnp.flip(volume, axis), volume)
    return volume


def rotate_cube(volumes: Shaped[Array, "b s s s c"], numbers: Int[Array, "b"]) -> Shaped[Array, "b s s s c"]:
    """Turns each volume of a batch by its own rotation of a cube, numbered as in `cube_rotation`.

    Raises:
      ValueError: the volumes are not cubes: a turn would change their shape.
    """
    if volumes.ndim != 5 or len(set(volumes.shape[1:4])) > 1:
        raise ValueError(f"rotate_cube needs cubes [B, S, S, S, C], not {volumes.shape}: crop them first")
    return jax.vmap(cube_rotation)(volumes, numbers)
