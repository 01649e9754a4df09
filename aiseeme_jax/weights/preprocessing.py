"""How images become the input of a network: in the header of every file of weights, and as a function.

The entry `preprocessing` of a header is a JSON object with these members:

    dimensions      2 (images) | 3 (volumes)
    layout          axes of a batch: "NHWC" | "NDHWC"
    size            side of the input in pixels or voxels
    resize          how an image comes to that size
    channels        1 | 3
    channel_order   "RGB" | "grey" | "HU"
    window          the HU that become 0 and 1; empty for images
    value_range     [0, 1]: the range of the values from which the mean is subtracted
    mean, std       of each channel, in that range: input = (value - mean) / std
    stored          how the data set that the network was trained on stores its images: fields of
                    `tfds_builders.common.storage.ImageStorage` or `VolumeStorage`; null if that is not known
    sha256          of all other members, as JSON with sorted keys
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, Shaped, UInt8

from aiseeme_jax import augment
from aiseeme_jax.errors import UserError
from tfds_builders.common.storage import ImageStorage, Storage, fields_of, storage_of

# The entry of a header.
PREPROCESSING = "preprocessing"
SQUEEZE = "the whole image to a square, bilinear with antialiasing"
# No picture of a patient has a shorter side; an axis of channels has.
SHORTEST = 5


class Preprocessing(dict):
    """The members above, and what they mean: `preprocess` makes the input of the network."""

    @property
    def views(self) -> augment.AnyViews:
        """Views whose central view is the input of the network."""
        fields = {name: tuple(self[name]) for name in ("mean", "std", "window")}
        return augment.views_of({"dimensions": self["dimensions"], "size": self["size"], **fields})

    @property
    def stored(self) -> Storage | None:
        """How the data set stores its images, if that is known."""
        return None if self["stored"] is None else storage_of(self["stored"])

    def preprocess(self, images: Num[np.ndarray, "..."] | Sequence[np.ndarray]) -> Float[Array, "b *size c"]:
        """The input of the network, float32 [B, H, W, C] or [B, D, H, W, 1], of images in memory.

        Args:
          images: one image [H, W], [H, W, 1] or [H, W, 3], a batch [B, H, W, 1 or 3], or a list of images of any sizes.
            Colours are RGB. Values are uint8, or floats from 0 (black) to 1 (white), which are rounded to 255 steps, as
            stored images are. Grey is repeated for a network of colours, and colours become luminance for one of grey.
            An image of another size than the data set's is first resized as the data set's builder does it. For a
            network of volumes or HU: int16 HU, [D, H, W], [B, D, H, W, 1] or, of planes, [H, W] and [B, H, W, 1].

        Raises UserError for everything that cannot be told apart: other types, floats beyond 0 to 1, integers that may
        be meant as 0 to 1, channels first, alpha.
        """
        one_by_one = images if isinstance(images, list | tuple) else _split(np.asarray(images), self["dimensions"])
        if not len(one_by_one):
            raise UserError("there are no images to preprocess")
        arrays = [np.asarray(image) for image in one_by_one]
        if not self["window"]:
            _check_bytes(arrays)
        prepared = [self._prepare(image) for image in arrays]
        return jnp.concatenate([augment.central_view(jnp.asarray(image[None]), self.views) for image in prepared])

    def _prepare(self, image: Num[np.ndarray, "*space c"]) -> Shaped[np.ndarray, "*space c"]:
        """One image as its data set stores it."""
        if self["window"]:
            return _as_hounsfield(image, self["dimensions"], self["channels"])
        pixels = _match_channels(_as_bytes(_with_channels(image)), self["channels"])
        return self.stored.make(pixels) if isinstance(self.stored, ImageStorage) else pixels


def describe(views: augment.AnyViews, channels: int, stored: Storage | None) -> Preprocessing:
    """The entry of a header.

    Args:
      views: of evaluation.
      channels: of the network.
      stored: how the data set of training stores its images; None if it is not known.
    """
    window = list(views.window)
    entry = {
        "dimensions": views.dimensions,
        "layout": "NHWC" if views.dimensions == 2 else "NDHWC",
        "size": views.size,
        "resize": SQUEEZE,
        "channels": channels,
        "channel_order": "HU" if window else ("grey" if channels == 1 else "RGB"),
        "window": window,
        "value_range": [0.0, 1.0],
        "mean": _of_channels(views.mean, channels),
        "std": _of_channels(views.std, channels),
        "stored": None if stored is None else fields_of(stored),
    }
    return Preprocessing(entry, sha256=_digest(entry))


def read(file: Path, entry: Mapping[str, Any], remedy: str) -> Preprocessing:
    """The entry of a header. Raises UserError, with the remedy, if it is damaged."""
    try:
        found = Preprocessing(entry)
        if found["sha256"] != _digest(found):
            raise ValueError("it does not have its hash")
        found.views, found.stored  # noqa: B018 (raises for what cannot be)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged: its entry '{PREPROCESSING}' cannot be read ({error}); {remedy}") from None
    return found


def _digest(entry: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in entry.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _of_channels(values: Sequence[float], channels: int) -> list[float]:
    """Of a grey image the average, with the digits that the views compute with."""
    if channels > 1:
        return list(values)
    return [float(jnp.mean(jnp.asarray(values, jnp.float32)))]


def _split(images: Num[np.ndarray, "..."], dimensions: int) -> list[Num[np.ndarray, "..."]]:
    """The images of an array, which holds one or a batch."""
    if images.ndim == dimensions + 2:
        return list(images)
    if images.ndim in (dimensions, dimensions + 1):
        return [images]
    kind = "[H, W, C] or [B, H, W, C]" if dimensions == 2 else "[D, H, W] or [B, D, H, W, 1]"
    raise UserError(f"this network takes images {kind}, not an array {images.shape}")


def _with_channels(image: Num[np.ndarray, "..."]) -> Num[np.ndarray, "h w c"]:
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3:
        raise UserError(f"one image is [H, W], [H, W, 1] or [H, W, 3], not {image.shape}")
    height, width, channels = image.shape
    if channels == 4:
        raise UserError(f"the image {image.shape} has alpha: drop its last channel, image[..., :3]")
    if channels not in (1, 3):
        first = " Channels are first: move them, np.moveaxis(image, 0, -1)." if height in (1, 3) else ""
        raise UserError(
            f"the last axis of an image is its channels, 1 or 3, and not {channels} as in {image.shape}.{first} A "
            "batch of grey images is [B, H, W, 1]"
        )
    if min(height, width) < SHORTEST:
        raise UserError(
            f"an image {image.shape} is too small, or its axes are in another order: they are height, width, channels"
        )
    return image


def _check_bytes(images: Sequence[Num[np.ndarray, "..."]]) -> None:
    """Raises UserError for uint8 that may be meant as 0 to 1, by all images together: one alone may be dark."""
    if max((int(image.max(initial=0)) for image in images if image.dtype == np.uint8), default=0) == 1:
        raise UserError(
            "the pixels are uint8 and none is above 1: it cannot be told whether 1 is white or next to black. Give "
            "uint8 from 0 to 255, or floats from 0 to 1"
        )


def _as_bytes(image: Num[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """0 to 255, of 0 to 1."""
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise UserError(
            f"the pixels are {image.dtype}, whose range cannot be told: give uint8 from 0 to 255, or floats from 0 to 1"
        )
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        why = "they look as if they were normalised already" if low < 0 else "they are not from 0 to 1"
        why = "some are not finite" if not np.isfinite(image).all() else why
        raise UserError(
            f"the pixels are {image.dtype} from {low:g} to {high:g}: {why}. Give uint8 from 0 to 255, or floats from 0 "
            "to 1"
        )
    return np.rint(np.asarray(image, np.float64) * 255).astype(np.uint8)


def _match_channels(image: UInt8[np.ndarray, "h w c"], channels: int) -> UInt8[np.ndarray, "h w c"]:
    """As `tfds_builders.common.images.read_pixels`."""
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def _as_hounsfield(
    image: Num[np.ndarray, "*space c"], dimensions: int, channels: int
) -> Shaped[np.ndarray, "*space c"]:
    image = image[..., None] if image.ndim == dimensions else image
    if image.ndim != dimensions + 1 or image.shape[-1] != channels:
        kind = "[D, H, W]" if dimensions == 3 else f"[H, W, {channels}]"
        raise UserError(f"this network takes HU {kind}, not {image.shape}")
    if image.dtype != np.int16:
        raise UserError(f"this network takes int16 HU (air -1000, water 0), not {image.dtype}: convert the values")
    return image
