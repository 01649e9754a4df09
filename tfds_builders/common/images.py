"""Decoding, shortening and encoding of images with OpenCV, of masks in GIF files with Pillow; a file that is cut, or of
which much is missing, is an error, never a grey image. A changed byte of a JPEG or GIF file, which have no checksums,
is not seen.
"""

import io

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image

from tfds_builders.common.damage import DamagedInput

JPEG_START, JPEG_END, PNG_START, PNG_END = b"\xff\xd8", b"\xff\xd9", b"\x89PNG", b"IEND"
JPEG_SCAN = 0xDA
JPEG_PROGRESSIVE, JPEG_RESTARTS = b"\xff\xc2", b"\xff\xdd"
FILLING = 128
# Bytes by which it can be told whether they repeat.
JUDGED = 96
TIFF_STARTS = (b"II*\0", b"MM\0*")
GIF_STARTS = (b"GIF87a", b"GIF89a")
# Segments without a length: padding, restart markers, start of image.
JPEG_BARE = {0x01, 0xFF, *range(0xD0, 0xD9)}
# No image of a patient has a shorter side; a broken export may.
SMALLEST = 16
ADVICE = "replace the file by a whole one, or take its row out of the table"


def is_whole(data: bytes) -> bool:
    """Whether a JPEG or PNG file reaches its end mark. OpenCV fills the missing part of a cut JPEG with
    grey.
    """
    if data.startswith(PNG_START):
        return data.find(PNG_END, len(data) - 64) >= 0 if len(data) > 64 else PNG_END in data
    if not data.startswith(JPEG_START):
        return True
    scan = jpeg_scan(data)
    return scan > 0 and data.find(JPEG_END, scan) >= 0


def jpeg_scan(data: bytes) -> int:
    """Where the pixels of a JPEG file begin; 0 if it is cut before."""
    position = 2
    # An embedded thumbnail has marks of its own, so the segments before the pixels are stepped over.
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == JPEG_SCAN:
            return position
        position += 1 if marker == 0xFF else 2
        if marker not in JPEG_BARE:
            position += int.from_bytes(data[position : position + 2], "big")
    return 0


def is_filled_up(data: bytes, image: Shaped[np.ndarray, "height width ..."]) -> bool:
    """Whether the last rows of a whole JPEG file are the grey that decoders put where bytes are missing.

    An image that is itself of that grey ends in bytes that repeat. Not seen: less than about 25,000 missing pixels,
    and what is missing of a progressive file or of one with restart markers.
    """
    if not (image[-1] == FILLING).all():
        return False
    other = np.flatnonzero((image != FILLING).reshape(len(image), -1).any(axis=1))
    rows = len(image) - 1 - other.max(initial=-1)
    # Two bits at least for each block of 8 x 8.
    size = rows * image.shape[1] // 256
    scan = jpeg_scan(data)
    if size < JUDGED or any(marker in data[:scan] for marker in (JPEG_PROGRESSIVE, JPEG_RESTARTS)):
        return False
    # The last byte is padded.
    end = data.find(JPEG_END, scan) - 1
    tail = data[max(scan, end - size) : end][-2 * JUDGED :]
    return not any(tail[period:] == tail[:-period] for period in range(1, JUDGED // 2))


def read_pixels(
    data: bytes, name: str, channels: int
) -> tuple[UInt8[np.ndarray, "height width channels"], tuple[str, ...]]:
    """Pixels of a JPEG, PNG, TIFF or DICOM file, as stored (an EXIF orientation is not applied).

    Args:
      data: the file.
      name: for messages.
      channels: 3 gives RGB, 1 luminance, whatever the file has.

    Returns the pixels and what had to be converted: 'DICOM', '16 bit' (its range of values stretched to 0 to 255),
    'first page' (of several in a TIFF file), 'alpha' (dropped), 'grey' (copied to three channels), 'colour' (its
    luminance taken), 'equal channels' (one taken).

    Raises DamagedInput for a file that is empty, cut short, undecodable, not of integers, or smaller than 16 pixels.
    """
    if data[128:132] == b"DICM":
        from tfds_builders.common.dicom import read_image

        image, notes = read_image(data, name), ["DICOM"]
    else:
        image, notes = decode(data, name, cv2.IMREAD_UNCHANGED), []
        if data.startswith(TIFF_STARTS) and pages(data) > 1:
            notes.append("first page")
    image = image[..., None] if image.ndim == 2 else image
    # Before the range of values is looked for: of 16 bits, alpha's 65535 would be its end.
    if image.shape[-1] == 4:
        image = image[..., :3]
        notes.append("alpha")
    if image.dtype == np.uint16:
        image = stretch(image)
        notes.append("16 bit")
    if image.dtype != np.uint8:
        raise DamagedInput(f"image {name} holds {image.dtype} values: 8 or 16 bit integers are wanted")
    if min(image.shape[:2]) < SMALLEST:
        raise DamagedInput(f"image {name} is {image.shape[1]}x{image.shape[0]} pixels: {ADVICE}")
    if image.shape[-1] == 1 and channels == 3:
        notes.append("grey")
        return np.repeat(image, 3, axis=-1), tuple(notes)
    if image.shape[-1] == 3 and channels == 1:
        # Radiographs are often stored as colour with three equal channels.
        equal = (image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all()
        notes.append("equal channels" if equal else "colour")
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None], tuple(notes)
    return (image if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)), tuple(notes)


def pages(data: bytes) -> int:
    """Of a TIFF file."""
    return len(cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)[1])


def stretch(image: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Values mapped linearly to 0 to 255: the depth that was used (12 of 16 bits, say) is not written in the file."""
    low, high = float(image.min()), float(image.max())
    return np.round((image.astype(np.float64) - low) * (255 / max(high - low, 1.0))).astype(np.uint8)


def decode_mask(data: bytes, name: str) -> UInt8[np.ndarray, "height width"]:
    """A mask's grey levels, of a GIF file those of its first frame; DamagedInput names an undecodable file."""
    if data.startswith(GIF_STARTS):
        return decode_gif(data, name)
    return decode(data, name, cv2.IMREAD_GRAYSCALE)


def decode_gif(data: bytes, name: str) -> UInt8[np.ndarray, "height width"]:
    """Grey levels of the first frame's colours. OpenCV shows the transparent colour as black: a mask whose inside is
    that colour would be empty.
    """
    try:
        with Image.open(io.BytesIO(data)) as frame:
            return np.asarray(frame.convert("L"))
    # What Pillow raises for a cut file or a changed byte, and for a size that a changed byte made enormous.
    except (OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedInput(f"image {name} cannot be decoded ({error}): {ADVICE}") from error


def decode(data: bytes, name: str, flags: int) -> Shaped[np.ndarray, "..."]:
    if not data:
        raise DamagedInput(f"image {name} is empty: {ADVICE}")
    if not is_whole(data):
        raise DamagedInput(f"image {name} is cut short (no end mark in its {len(data)} bytes): {ADVICE}")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DamagedInput(f"image {name} cannot be decoded ({error.err}): {ADVICE}") from error
    if image is None:
        raise DamagedInput(f"image {name} cannot be decoded: {ADVICE}")
    if data.startswith(JPEG_START) and is_filled_up(data, image):
        raise DamagedInput(f"image {name} has lost bytes before its end: {ADVICE}")
    return image


def square(image: UInt8[np.ndarray, "height width ..."], size: int) -> UInt8[np.ndarray, "size size ..."]:
    """The whole image squeezed to size x size; averages over areas along each side that shrinks, so fine texture does
    not alias, and interpolates linearly along one that grows.
    """
    height, width = image.shape[:2]
    # OpenCV averages over areas only if neither side grows.
    shrunk = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    resized = cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(size, size, *image.shape[2:])


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
