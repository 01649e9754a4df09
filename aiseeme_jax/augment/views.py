"""Views: they turn stored images and volumes into the input of a backbone, jitted, on the accelerator.

`Views` says what may be done to an image, `VolumeViews` what may be done to a volume. `random_view` draws one view of
each. The view of image i depends on the key and on i only, not on the rest of the batch or on the devices. Operations
of probability 0 are not traced.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from aiseeme_jax.augment import blur, colour, geometry, volumes
from aiseeme_jax.augment.checks import check_fields, check_window
from aiseeme_jax.augment.volumes import VolumeViews, apply_window

# Published strengths of blur are in pixels of a view of this size.
REFERENCE_SIZE = 224

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Views:
    """How views of an image are made. Hashable, so that it can be a static argument.

    Attributes:
      dimensions: 2; distinguishes these fields from those of `VolumeViews`.
      size: side of the view in pixels.
      crop_scale: range of the share of the image's area in a crop.
      crop_ratio: range of width / height of a crop.
      flip_horizontal, flip_vertical: probabilities.
      right_angles: turn by a random multiple of 90 degrees.
      rotation: turn by up to this many degrees either way; the border of the image is reflected.
      jitter_probability: of brightness, contrast, saturation and hue together, in random order, with the strengths
        below.
      grey_probability: of losing the colours.
      blur_probability: of a Gaussian blur.
      blur_sigma: its range, in pixels of a view of 224; scaled by size / 224.
      solarise_probability: of inverting the values from 0.5 up.
      mean, std: per channel, in units of [0, 1]. Grey images use their averages.
      window: for images stored as int16 HU, the HU that become 0 and 1. Values beyond are clipped. Empty for images
        stored as uint8.
    """

    dimensions: int = 2
    size: int = 224
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_horizontal: float = 0.5
    flip_vertical: float = 0.0
    right_angles: bool = False
    rotation: float = 0.0
    jitter_probability: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey_probability: float = 0.0
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise_probability: float = 0.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    window: tuple[float, ...] = ()

    def __post_init__(self):
        check_fields(
            self,
            dimensions=2,
            at_least_zero=("brightness", "contrast", "saturation", "rotation"),
            ranges={"crop_scale": (0, 1), "crop_ratio": (0, math.inf), "blur_sigma": (0, math.inf)},
        )
        if self.window:
            check_window(self.window)
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"views.hue is a share of the colour circle, so from 0 to 0.5, not {self.hue}")


AnyViews = Views | VolumeViews


def views_of(fields: Mapping[str, Any]) -> AnyViews:
    """Makes the views that a config describes. Its field `dimensions` decides their class.

    Raises:
      ValueError: a field out of its range, or of the other class.
    """
    dimensions = fields.get("dimensions", Views.dimensions)
    if dimensions not in (2, 3):
        raise ValueError(f"views.dimensions is 2 (images) or 3 (volumes), not {dimensions}")
    kind = Views if dimensions == 2 else VolumeViews
    foreign = sorted(set(fields) - {field.name for field in dataclasses.fields(kind)})
    if foreign:
        raise ValueError(
            f"views.dimensions is {dimensions}, but {', '.join(foreign)} are not fields of {dimensions}-D views: "
            "take a preset of that kind instead"
        )
    return kind(**fields)


@partial(jax.jit, static_argnames="views")
def random_view(key: PRNGKeyArray, images: Shaped[Array, "b *space c"], views: AnyViews) -> Float[Array, "b *size c"]:
    """Draws one view of each image [B, H, W, C] or volume [B, D, H, W, 1], float32, normalised.

    Raises:
      TypeError: images are not uint8, or with a window not int16, or volumes not int16.
      ValueError: images are not [B, H, W, 1 or 3], or volumes not [B, D, H, W, 1].
    """
    _check(images, views)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
    draw = _view if views.dimensions == 2 else volumes.volume_view
    return jax.vmap(lambda k, image: _normalise(draw(k, image, views), views))(keys, images)


@partial(jax.jit, static_argnames="views")
def random_view_with_mask(
    key: PRNGKeyArray, images: Shaped[Array, "b h w c"], masks: Shaped[Array, "b h w 1"], views: Views
) -> tuple[Float[Array, "b s s c"], Shaped[Array, "b s s 1"]]:
    """The view of `random_view` of each image, and its mask cropped, flipped and turned in the same way.

    A pixel of the mask is the nearest one, so the mask keeps its values and its type.

    Raises: as `random_view`, and ValueError for volumes or for masks of another size than the images.
    """
    _check(images, views)
    if views.dimensions == 3 or masks.shape != (*images.shape[:3], 1):
        raise ValueError(f"masks must be [B, H, W, 1] beside images [B, H, W, C], not {masks.shape}, {images.shape}")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
    view = jax.vmap(lambda k, image: _normalise(_view(k, image, views), views))(keys, images)
    return view, jax.vmap(lambda k, mask: _place(_split_keys(k)[0], mask, views, nearest=True))(keys, masks)


@partial(jax.jit, static_argnames="views")
def central_view(images: Shaped[Array, "b *space c"], views: AnyViews) -> Float[Array, "b *size c"]:
    """The view for evaluation: the whole image or volume resized to the size of the views, normalised.

    Raises: as `random_view`.
    """
    _check(images, views)
    if views.dimensions == 3:
        return _normalise(jax.vmap(lambda volume: volumes.whole_volume(volume, views))(images), views)
    _, height, width, _ = images.shape
    box = geometry.Box(0.0, 0.0, float(height), float(width))
    crop = jax.vmap(lambda image: geometry.crop_resize(image.astype(jnp.float32), box, views.size))
    return _normalise(_unit(crop(images), views), views)


CENTRAL = "central"
EVALUATION_VIEWS = (CENTRAL, "flip", "right_angles", "nine_crops")
# Side of each of nine crops, as a share of the image's.
CROP_SHARE = 0.875


def evaluation_views(
    images: Shaped[Array, "b *space c"], views: AnyViews, name: str
) -> list[Float[Array, "b *size c"]]:
    """Views of each image whose predictions are averaged. Nothing in them is random.

    Args:
      name: 'central': the central view alone; 'flip': also its mirror image, left to right; 'right_angles': it and its
        mirror image, each turned by 0, 90, 180 and 270 degrees; 'nine_crops': squares, or boxes of the image's shape,
        of 7/8 of its sides, at the corners, in the middle of the edges and in the centre.

    Raises ValueError for volumes and another name than 'central', and as `random_view`.
    """
    central = central_view(images, views)
    if name == CENTRAL:
        return [central]
    if views.dimensions == 3:
        raise ValueError(f"'{name}' is for images: volumes have '{CENTRAL}' alone")
    if name == "nine_crops":
        return _nine_crops(images, views)
    turns = range(1 if name == "flip" else 4)
    return [jnp.rot90(view, turn, axes=(1, 2)) for view in (central, central[:, :, ::-1]) for turn in turns]


def _nine_crops(images: Shaped[Array, "b h w c"], views: AnyViews) -> list[Float[Array, "b s s c"]]:
    _, height, width, _ = images.shape
    free, side = 1 - CROP_SHARE, CROP_SHARE
    boxes = [
        geometry.Box(free * height * down / 2, free * width * right / 2, side * height, side * width)
        for down in range(3)
        for right in range(3)
    ]
    crops = [
        jax.vmap(lambda image, box=box: geometry.crop_resize(image.astype(jnp.float32), box, views.size))(images)
        for box in boxes
    ]
    return [_normalise(_unit(crop, views), views) for crop in crops]


def to_display(view: Float[Array, "... c"], views: AnyViews) -> Float[Array, "... c"]:
    """Undoes the normalisation, for pictures. Values are in [0, 1]."""
    mean, std = _statistics(views, view.shape[-1])
    return jnp.clip(view * std + mean, 0.0, 1.0)


def from_display(image: Float[Array, "... c"], views: AnyViews) -> Float[Array, "... c"]:
    """Normalises values in [0, 1]: the inverse of `to_display`."""
    return _normalise(image, views)


def stored_to_display(images: Shaped[Array, "b *space c"], views: AnyViews) -> Float[Array, "b *space c"]:
    """Stored images or volumes as values in [0, 1], for pictures. HU are mapped by the window."""
    return _unit(images.astype(jnp.float32), views)


def _unit(stored: Float[Array, "*any"], views: AnyViews) -> Float[Array, "*any"]:
    """Maps stored values to [0, 1], HU by the window."""
    return apply_window(stored, views.window) if views.window else stored / 255


def _check(images: Array, views: AnyViews) -> None:
    if views.dimensions == 3:
        volumes.check_volumes(images)
        return
    if views.window and images.dtype != jnp.int16:
        raise TypeError(f"views with a window are made of int16 HU, not {images.dtype}: take a preset without a window")
    if not views.window and images.dtype == jnp.int16:
        raise TypeError("views of int16 HU need a window: take a preset that has one, such as 'ct_planes'")
    if not views.window and images.dtype != jnp.uint8:
        raise TypeError(f"views are made of uint8 images, not {images.dtype}: pass the pixels as they were decoded")
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"views are made of images [B, H, W, 1 or 3], not {images.shape}")


def _view(key: PRNGKeyArray, image: Shaped[Array, "h w c"], views: Views) -> Float[Array, "s s c"]:
    """Crop, flips and turns, then colour, in the order of SimCLR, MoCo v2 and BYOL; not normalised.

    HU are resampled before the window is applied, so that densities are averaged.

    Resampling is bilinear with antialiasing, also for tasks whose authors used bicubic (BYOL, MAE and DINO, for
    instance). NPID and MoCo v1 turn an image grey before they jitter it; here it is the other way round.
    """
    place_key, jitter_key, chance_key = _split_keys(key)
    # Drawn together, since each call of a generator takes time to compile.
    jitter, grey, blurred, sharpness, solarised = jax.random.uniform(chance_key, (5,))
    view = _unit(_place(place_key, image.astype(jnp.float32), views), views)
    strengths = (views.brightness, views.contrast, views.saturation, views.hue)
    if views.jitter_probability > 0 and max(strengths) > 0:
        jittered = colour.random_jitter(jitter_key, view, strengths)
        view = jnp.where(jitter < views.jitter_probability, jittered, view)
    if views.grey_probability > 0:
        view = jnp.where(grey < views.grey_probability, colour.grey(view), view)
    if views.blur_probability > 0:
        low, high = (s * views.size / REFERENCE_SIZE for s in views.blur_sigma)
        sigma = low + (high - low) * sharpness
        # Sigma 0 gives the identity matrix. The products are computed for every image of the batch in any case.
        view = blur.gaussian_blur(view, jnp.where(blurred < views.blur_probability, sigma, 0.0))
    if views.solarise_probability > 0:
        view = jnp.where(solarised < views.solarise_probability, colour.solarise(view), view)
    return view


def _split_keys(key: PRNGKeyArray) -> PRNGKeyArray:
    """The keys of an image: of its place, of its colours, and of what happens to it at all."""
    return jax.random.split(key, 3)


def _place(
    key: PRNGKeyArray, image: Shaped[Array, "h w c"], views: Views, *, nearest: bool = False
) -> Shaped[Array, "s s c"]:
    """Crops, flips and turns the image: bilinear, or by the nearest pixel.

    What is drawn depends on the key and on the shape of the image alone.
    """
    crop = geometry.crop_nearest if nearest else geometry.crop_resize
    box_key, turn_key = jax.random.split(key)
    rows, columns, quarter, angle = jax.random.uniform(turn_key, (4,))
    height, width, _ = image.shape
    box = geometry.random_box(box_key, height, width, views.crop_scale, views.crop_ratio)
    box = geometry.flip(box, rows < views.flip_vertical, columns < views.flip_horizontal)
    turns = jnp.floor(4 * quarter).astype(jnp.int32) if views.right_angles else 0
    if views.rotation > 0:
        # A rotation moves corners of a larger crop into the view. They come from the image, or from its reflection
        # beyond the border. A right angle costs nothing here: it is added to the angle.
        side = math.ceil(views.size * geometry.rotation_margin(views.rotation)) + 1
        canvas = crop(image, geometry.enlarge(box, side / views.size), side)
        degrees = (2 * angle - 1) * views.rotation + 90.0 * turns
        return geometry.rotate(canvas, degrees, views.size, nearest=nearest)
    view = crop(image, box, views.size)
    return geometry.quarter_turn(view, turns) if views.right_angles else view


def _statistics(views: AnyViews, channels: int) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    mean, std = jnp.asarray(views.mean, jnp.float32), jnp.asarray(views.std, jnp.float32)
    if channels == 1:
        mean, std = jnp.mean(mean, keepdims=True), jnp.mean(std, keepdims=True)
    return mean, std


def _normalise(view: Float[Array, "... c"], views: AnyViews) -> Float[Array, "... c"]:
    mean, std = _statistics(views, view.shape[-1])
    return (view - mean) / std
