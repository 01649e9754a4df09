"""Decoding, shortening and encoding of images with OpenCV; a damaged file is an error, never a grey image."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

JPEG_START, JPEG_END, PNG_START, PNG_END = b"\xff\xd8", b"\xff\xd9", b"\x89PNG", b"IEND"
JPEG_SCAN = 0xDA
# Segments without a length: padding, restart markers, start of image.
JPEG_BARE = {0x01, 0xFF, *range(0xD0, 0xD9)}


def is_whole(data: bytes) -> bool:
    """Whether a JPEG or PNG file reaches its end mark. OpenCV fills the missing part of a cut JPEG with
    grey.
    """
    if data.startswith(PNG_START):
        return data.find(PNG_END, len(data) - 64) >= 0 if len(data) > 64 else PNG_END in data
    if not data.startswith(JPEG_START):
        return True
    position = 2
    # An embedded thumbnail has an end mark of its own, so the segments before the pixels are stepped over.
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == JPEG_SCAN:
            return data.find(JPEG_END, position) >= 0
        position += 1 if marker == 0xFF else 2
        if marker not in JPEG_BARE:
            position += int.from_bytes(data[position : position + 2], "big")
    return False


def decode_colour(data: bytes, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """Pixels in RGB, as stored (an EXIF orientation is not applied); ValueError names an undecodable file."""
    return cv2.cvtColor(decode(data, name, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def decode_mask(data: bytes, name: str) -> UInt8[np.ndarray, "height width"]:
    """A mask's grey levels; ValueError names an undecodable file."""
    return decode(data, name, cv2.IMREAD_GRAYSCALE)


def decode(data: bytes, name: str, flags: int) -> UInt8[np.ndarray, "..."]:
    advice = "replace the file by the official one, or take its row out of the tables"
    if not data:
        raise ValueError(f"image {name} is empty: {advice}")
    if not is_whole(data):
        raise ValueError(f"image {name} is cut short (no end mark in its {len(data)} bytes): {advice}")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f"image {name} cannot be decoded ({error.err}): {advice}") from error
    if image is None:
        raise ValueError(f"image {name} cannot be decoded: {advice}")
    return image


def square(image: UInt8[np.ndarray, "height width ..."], size: int) -> UInt8[np.ndarray, "size size ..."]:
    """The whole image squeezed to size x size; averages over areas where it shrinks, so fine texture does
    not alias.
    """
    shrinks = min(image.shape[:2]) >= size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def encode_png(image: UInt8[np.ndarray, "..."]) -> bytes:
    """Lossless; RGB or grey."""
    return cv2.imencode(".png", to_bgr(image))[1].tobytes()


def encode_jpeg(image: UInt8[np.ndarray, "..."], quality: int) -> bytes:
    return cv2.imencode(".jpg", to_bgr(image), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def to_bgr(image: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 and image.shape[-1] == 3 else image


def binary(mask: UInt8[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Inside of a mask, by the challenge's own rule: above 128."""
    return mask > 128
