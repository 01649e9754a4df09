"""Image files as 8-bit pixels, upright; shortening and encoding with OpenCV.

Which files are read stands in `formats`. Each format has one decoder, which refuses a file that is cut or of which
bytes are missing. A changed byte is noticed if the format has checksums (PNG), or if the decoder stumbles over it.
"""

import io
import logging
from collections.abc import Callable
from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np
import pillow_heif
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image

from tfds_builders.common import formats, tiff
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.formats import MAX_PIXELS, Header, Kind
from tfds_builders.common.headers import ADVICE, read_header
from tfds_builders.common.stretching import CLIPPED, stretch
from tfds_builders.common.whole_jpeg import decode_jpeg

PNG_START, JPEG_START = b"\x89PNG", b"\xff\xd8"
# No image of a patient has a shorter side; a broken export may.
SMALLEST = 16
# Of 255: greater values are the inside of a mask.
INSIDE = 128
ORIENTATION = "orientation"
# It tells of odd chunks there; what makes a picture unreadable it raises.
logging.getLogger("imagecodecs").setLevel(logging.CRITICAL)
# Sizes are bounded by `formats.check`, with a message.
Image.MAX_IMAGE_PIXELS = None


class Samples(NamedTuple):
    """A decoded image: uint8 or uint16 [H, W] or [H, W, channels], upright, RGB; and what was done to it."""

    values: Shaped[np.ndarray, "height width *channels"]
    notes: list[str]


def read_pixels(
    data: bytes, name: str, channels: int, max_pixels: float = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "height width channels"], tuple[str, ...]]:
    """Pixels of an image file of any kind in `formats.READABLE`, as the picture is shown: an orientation is applied.

    Args:
      data: the file.
      name: for messages.
      channels: 3 gives RGB, 1 luminance, whatever the file has.
      max_pixels: a larger image is refused before it is decoded.

    Returns the pixels and what had to be converted: 'DICOM'; 'first page' (of several); 'orientation 6' (turned after
    this EXIF value); 'alpha' (dropped); '16 bit' (its range of values stretched to 0 to 255, see `stretching`);
    'outliers' (of that range, clipped); 'grey' (copied to three channels), 'colour' (its luminance taken), 'equal
    channels' (one taken); and those of `dicom.show`.

    Raises DamagedInput for a file that is empty, cut short, undecodable, of no kind in the list, larger than
    `max_pixels` or smaller than 16 pixels.
    """
    image, notes = decode(data, name, max_pixels)
    image = image[..., None] if image.ndim == 2 else image
    # Before the range of values is looked for: of 16 bits, alpha's 65535 would be its end.
    if image.shape[-1] in (2, 4):
        image = image[..., :-1]
        notes.append("alpha")
    if image.dtype == np.uint16:
        image, clipped = stretch(image)
        notes += ["16 bit", CLIPPED] if clipped else ["16 bit"]
    if min(image.shape[:2]) < SMALLEST:
        raise DamagedInput(f"image {name} is {image.shape[1]}x{image.shape[0]} pixels: {ADVICE}")
    if image.shape[-1] == 1 and channels == 3:
        notes.append("grey")
        return np.repeat(image, 3, axis=-1), tuple(notes)
    if image.shape[-1] == 3 and channels == 1:
        # Radiographs are often stored as colour with three equal channels.
        equal = (image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all()
        notes.append("equal channels" if equal else "colour")
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], tuple(notes)
    return image, tuple(notes)


def decode(data: bytes, name: str, max_pixels: float) -> Samples:
    """Samples of the file as they are stored, but upright, without palette and with 0 for black.

    Raises DamagedInput, see `read_pixels`.
    """
    kind = formats.recognise(data, name)
    if kind == "DICOM":
        from tfds_builders.common.dicom import show

        image, notes = show(data, name, max_pixels)
        return Samples(image, ["DICOM", *notes])
    if kind == "TIFF":
        image, header, pages = tiff.read(data, name, max_pixels)
    else:
        header = heic_header(data, name) if kind == "HEIC" else read_header(data, name, kind)
        formats.check(header, name, max_pixels)
        image, pages = decode_checked(data, name, header.kind)
    if image.shape[:2] != (header.height, header.width):
        raise DamagedInput(
            f"image {name} has pixels of the shape {image.shape}, but its header says {header.width}x{header.height}: "
            f"{ADVICE}"
        )
    notes = ["first page"] if pages > 1 else []
    if header.orientation > 1:
        notes.append(f"{ORIENTATION} {header.orientation}")
    return Samples(np.ascontiguousarray(turn_upright(image, header.orientation)), notes)


def decode_checked(data: bytes, name: str, kind: Kind) -> tuple[Shaped[np.ndarray, "height width *channels"], int]:
    """Samples, and of how many pictures they are the first."""
    try:
        return DECODERS[kind.format](data, kind)
    # What simplejpeg, imagecodecs, Pillow and libheif raise for a file that they cannot decode.
    except (ValueError, RuntimeError, OSError, EOFError, SyntaxError, MemoryError, LookupError, TypeError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise DamagedInput(f"image {name} cannot be decoded as {kind.format} ({told[:200]}): {ADVICE}") from error


def decode_with_pillow(data: bytes, kind: Kind) -> tuple[Shaped[np.ndarray, "height width *channels"], int]:
    """Of several frames the first. A transparent colour keeps its place in the palette."""
    with Image.open(io.BytesIO(data), formats=("BMP", "GIF", "PPM")) as picture:
        pages = getattr(picture, "n_frames", 1)
        if kind.bits == 16:
            return np.asarray(picture).astype(np.uint16), pages
        grey = picture.mode == "L" or kind.colour == formats.GREY
        return np.asarray(picture.convert("L" if grey else "RGB")), pages


def heic_header(data: bytes, name: str) -> Header:
    """libheif turns the picture itself."""
    try:
        picture = pillow_heif.open_heif(data, convert_hdr_to_8bit=False)
    except (ValueError, RuntimeError, OSError, EOFError, SyntaxError, LookupError) as error:
        raise DamagedInput(
            f"image {name} is a HEIC file that libheif cannot decode ({error}): export it as JPEG or PNG"
        ) from error
    colours = {"RGB": formats.COLOUR, "RGBA": formats.COLOUR_ALPHA}
    kind = Kind("HEIC", colours.get(picture.mode, picture.mode), picture.info.get("bit_depth", 8), "HEVC")
    return Header(kind, *picture.size)


DECODERS: dict[str, Callable[[bytes, Kind], tuple[np.ndarray, int]]] = {
    "JPEG": lambda data, kind: (decode_jpeg(data, kind.colour == formats.COLOUR), 1),
    "PNG": lambda data, kind: (imagecodecs.png_decode(data), 1),
    "WebP": lambda data, kind: (imagecodecs.webp_decode(data), 1),
    "JPEG 2000": lambda data, kind: (imagecodecs.jpeg2k_decode(data), 1),
    "HEIC": lambda data, kind: (np.asarray(pillow_heif.open_heif(data)), 1),
    "BMP": decode_with_pillow,
    "GIF": decode_with_pillow,
    "PNM": decode_with_pillow,
}


def turn_upright(image: Shaped[np.ndarray, "..."], orientation: int) -> Shaped[np.ndarray, "..."]:
    """The picture as it is shown, of one that is stored with this EXIF orientation (1 to 8)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    # After the sides were swapped: in which of these the first row is below, the first column on the right.
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image[:, ::-1] if orientation in (2, 3, 6, 7) else image


def read_mask(data: bytes, name: str, max_pixels: float = MAX_PIXELS) -> Bool[np.ndarray, "height width"]:
    """The inside of a mask, of a file of several pages that of the first: above 128 of 255, the challenge's own rule,
    in files of 16 bits above as much of 65535. An orientation is applied, as to images.

    Raises DamagedInput for a file that is not read, see `read_pixels`, and for one that has values but no inside.
    """
    if formats.recognise(data, name) == "DICOM":
        raise formats.refused(name, "a DICOM file in the place of a mask", "export the mask as PNG")
    image = decode(data, name, max_pixels).values
    if image.ndim == 3:
        image = image[..., :-1] if image.shape[-1] in (2, 4) else image
        image = image[..., 0] if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    white = np.iinfo(image.dtype).max
    least = white // 255 * INSIDE
    inside = image > least
    if image.any() and not inside.any():
        raise DamagedInput(
            f"{name} holds values up to {image.max()}, but a mask's inside is {white} (above {least}): multiply it"
        )
    return inside


def square(image: UInt8[np.ndarray, "height width ..."], size: int) -> UInt8[np.ndarray, "size size ..."]:
    """The whole image squeezed to size x size; averages over areas along each side that shrinks, so fine texture does
    not alias, and interpolates linearly along one that grows.
    """
    height, width = image.shape[:2]
    image = np.ascontiguousarray(image)
    # OpenCV averages over areas only if neither side grows.
    shrunk = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    resized = cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(size, size, *image.shape[2:])


def fit_square(image: Shaped[np.ndarray, "height width ..."], fit: str) -> Shaped[np.ndarray, "..."]:
    """What of an image `square` shall resize, by one of `FITS`.

    'squeeze': all, so that its shape changes; 'pad': all, with black borders at the shorter sides; 'crop': the square
    in the middle.
    """
    height, width = image.shape[:2]
    if fit == "pad":
        free = max(height, width) - height, max(height, width) - width
        borders = [(one // 2, one - one // 2) for one in free]
        return np.pad(image, [*borders, *[(0, 0)] * (image.ndim - 2)])
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return image[top : top + side, left : left + side]
    return image


def encode_png(image: UInt8[np.ndarray, "..."]) -> bytes:
    """Lossless; RGB or grey."""
    return cv2.imencode(".png", to_bgr(image))[1].tobytes()


def encode_jpeg(image: UInt8[np.ndarray, "..."], quality: int) -> bytes:
    return cv2.imencode(".jpg", to_bgr(image), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def to_bgr(image: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 and image.shape[-1] == 3 else image
