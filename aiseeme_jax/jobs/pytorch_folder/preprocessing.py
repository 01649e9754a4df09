"""Images as the network of this folder takes them, in NumPy, and OpenCV (pip install opencv-python-headless).

An image comes to the network in two steps, as in training. First it becomes the square that the data set stored: the
whole image (padded or cropped to a square, if the data set is), averaged over areas where it shrinks, interpolated
where it grows, through JPEG if the data set stores JPEG. Then the square is resampled to the size of the input,
bilinear with antialiasing (a triangle as wide as a pixel of the result or of the square, whichever is larger,
renormalised at the border), and normalised. The first step gives the bytes that aiseeme_jax gives; the second computes
in float64, and differs by rounding to float32 alone.
"""

import cv2
import numpy as np


def preprocess(images, settings):
    """float32 [B, C, H, W], or [B, C, D, H, W] of volumes.

    Args:
      images: of any sizes, each uint8 [H, W, 1 or 3] in RGB. If `settings["window"]` is not empty, HU instead, int16
        [H, W, C], or cubes [D, H, W, 1] with the voxels of `settings["stored"]`.
      settings: the entry `preprocessing` of settings.json.
    """
    return np.stack([_prepare(np.asarray(image), settings) for image in images])


def _prepare(image, settings):
    window, space = settings["window"], settings["dimensions"]
    wanted, kind = (np.int16, "int16 HU") if window else (np.uint8, "uint8 from 0 to 255")
    if image.dtype != wanted or image.ndim != space + 1:
        raise ValueError(f"an image is {kind} with {space + 1} axes, channels last, not {image.dtype} {image.shape}")
    if not window:
        image = _store(_match_channels(image, settings["channels"]), settings["stored"])
    values = image.astype(np.float64)
    for axis in range(space):
        weights = _resample_weights(values.shape[axis], settings["size"])
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    low, high = window or (0.0, 255.0)
    values = np.clip((values - low) / (high - low), 0.0, 1.0)
    normalised = (values - np.array(settings["mean"])) / np.array(settings["std"])
    return np.moveaxis(normalised, -1, 0).astype(np.float32)


def _match_channels(image, channels):
    if image.shape[-1] == channels:
        return image
    if image.shape[-1] == 1:
        return np.repeat(image, channels, axis=-1)
    if image.shape[-1] == 3:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    raise ValueError(f"an image has 1 or 3 channels, not {image.shape[-1]}")


def _store(image, stored):
    """The square that the data set stored. `stored` is null in settings.json if that is not known."""
    if stored is None:
        return image
    size = stored["size"]
    if size is not None and image.shape[:2] != (size, size):
        image = _square(_fit(image, stored.get("fit", "squeeze")), size)
        if not stored["lossless"]:
            image = _through_jpeg(image)
    return image if stored["resized"] is None else _square(image, stored["resized"])


def _fit(image, fit):
    """The whole image; with black borders at its shorter sides (pad); or the square in its middle (crop)."""
    height, width, _ = image.shape
    if fit == "pad":
        free = max(height, width) - height, max(height, width) - width
        return np.pad(image, [*((one // 2, one - one // 2) for one in free), (0, 0)])
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return np.ascontiguousarray(image[top : top + side, left : left + side])
    return image


def _square(image, size):
    height, width, channels = image.shape
    # OpenCV averages over areas only if neither side grows.
    small = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR).reshape(size, size, channels)


def _through_jpeg(image):
    bgr = np.ascontiguousarray(image[..., ::-1])
    file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    pixels = cv2.imdecode(file, cv2.IMREAD_UNCHANGED).reshape(image.shape)
    return np.ascontiguousarray(pixels[..., ::-1])


def _resample_weights(source, target):
    """[target, source]: how much of each pixel goes into each pixel of the result."""
    step = source / target
    distance = np.abs(np.arange(source) + 0.5 - (np.arange(target)[:, None] + 0.5) * step)
    weights = np.maximum(0.0, 1 - distance / max(step, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)
