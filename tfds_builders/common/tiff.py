"""TIFF files: what their header says in the words of `formats`, and the pixels of their first full page."""

import io
import logging
import math
import struct

import numpy as np
import tifffile
from jaxtyping import Shaped
from tifffile import COMPRESSION, PHOTOMETRIC, SAMPLEFORMAT

from tfds_builders.common import formats
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.formats import COLOUR, COLOUR_ALPHA, GREY, GREY_ALPHA, PALETTE, WHITE_IS_ZERO, Header, Kind
from tfds_builders.common.headers import ADVICE, ORIENTATION
from tfds_builders.common.whole_jpeg import decode_jpeg

# It tells of odd tags there, one line each; what makes a picture unreadable it raises.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

COMPRESSIONS = {
    COMPRESSION.NONE: "none",
    COMPRESSION.LZW: "LZW",
    COMPRESSION.ADOBE_DEFLATE: "deflate",
    COMPRESSION.DEFLATE: "deflate",
    COMPRESSION.PACKBITS: "PackBits",
    COMPRESSION.ZSTD: "zstd",
    COMPRESSION.LZMA: "LZMA",
    COMPRESSION.JPEG: "JPEG",
    COMPRESSION.JPEG2000: "JPEG 2000",
}
ASSOCIATED, UNASSOCIATED = 1, 2
SAMPLE_FORMATS = {SAMPLEFORMAT.INT: "signed", SAMPLEFORMAT.IEEEFP: "floating point"}
# Of a damaged file tifffile and the codecs raise nearly anything.
ERRORS = (
    tifffile.TiffFileError,
    ValueError,
    RuntimeError,
    OSError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    MemoryError,
    struct.error,
)


def read(data: bytes, name: str, max_pixels: float) -> tuple[Shaped[np.ndarray, "height width *channels"], Header, int]:
    """Samples of the first page that is no thumbnail, as they are meant: 0 is black, palettes are looked up, fewer
    than 8 bits are spread over 0 to 255, alpha is the last channel.

    Returns the uint8 or uint16 array, the header, and how many pages there are. Raises DamagedInput.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = next((page for page in file.pages if not page.is_reduced), None)
            if page is None:
                raise formats.refused(name, "a TIFF file of thumbnails, as raw photographs are", formats.TO_PNG)
            header = describe(page)
            formats.check(header, name, max_pixels)
            check_segments(page, data)
            return meant(page, header.kind, name), header, len(file.pages)
    except DamagedInput:
        raise
    except ERRORS as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise DamagedInput(f"image {name} cannot be decoded as TIFF ({told[:200]}): {ADVICE}") from error


def describe(page: tifffile.TiffPage) -> Header:
    orientation = page.tags.valueof(ORIENTATION, default=1)
    orientation = orientation if orientation in range(1, 9) else 1
    number = page.compression
    compression = COMPRESSIONS.get(number, getattr(number, "name", f"number {number}"))
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    return Header(
        Kind("TIFF", colour_of(page, compression), bits, compression), page.imagewidth, page.imagelength, orientation
    )


def colour_of(page: tifffile.TiffPage, compression: str) -> str:
    if page.sampleformat != SAMPLEFORMAT.UINT:
        return f"{SAMPLE_FORMATS.get(page.sampleformat, 'undefined')} numbers"
    if page.imagedepth > 1:
        return "a volume"
    samples, extra = page.samplesperpixel, page.extrasamples
    match page.photometric:
        case PHOTOMETRIC.MINISBLACK | PHOTOMETRIC.MINISWHITE if samples == 1:
            return GREY if page.photometric == PHOTOMETRIC.MINISBLACK else WHITE_IS_ZERO
        case PHOTOMETRIC.MINISBLACK if samples == 2 and extra and extra[0] in (ASSOCIATED, UNASSOCIATED):
            return GREY_ALPHA
        case PHOTOMETRIC.RGB if samples in (3, 4):
            return COLOUR if samples == 3 else COLOUR_ALPHA
        case PHOTOMETRIC.PALETTE if samples == 1:
            return PALETTE
        case PHOTOMETRIC.YCBCR if samples == 3 and compression == "JPEG":
            return COLOUR
    name = getattr(page.photometric, "name", str(page.photometric))
    return f"{samples} channels of {name}"


def check_segments(page: tifffile.TiffPage, data: bytes) -> None:
    """Raises ValueError if strips or tiles are not in the file. JPEG decoders fill what is missing with grey, so each
    JPEG strip is also decoded by one that does not.
    """
    # Where there are too few, tifffile fills up with zeros.
    if len(page.dataoffsets) < math.prod(page.chunked):
        raise ValueError(f"{len(page.dataoffsets)} of {math.prod(page.chunked)} strips or tiles are there")
    for start, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if size <= 0 or start + size > len(data):
            raise ValueError("it is cut short: strips or tiles are missing")
        if page.compression == COMPRESSION.JPEG:
            tables = page.jpegtables[:-2] if page.jpegtables else b""
            strip = data[start : start + size]
            decode_jpeg(tables + strip[2:] if tables else strip, page.samplesperpixel > 1)


def meant(page: tifffile.TiffPage, kind: Kind, name: str) -> Shaped[np.ndarray, "height width *channels"]:
    samples = page.asarray(maxworkers=1)
    if page.axes.startswith("S"):
        samples = np.moveaxis(samples, 0, -1)
    if kind.colour == PALETTE:
        # [3, entries] of 16 bits; some programs write 8.
        table = page.colormap >> 8 if page.colormap.max() > 255 else page.colormap
        return table.astype(np.uint8).T[samples]
    if kind.bits < 8:
        samples = samples.astype(np.uint8) * np.uint8(255 // (2**kind.bits - 1))
    if kind.colour == WHITE_IS_ZERO:
        samples = np.iinfo(samples.dtype).max - samples
    opaque = np.iinfo(samples.dtype).max
    if ASSOCIATED in page.extrasamples and (samples[..., -1] != opaque).any():
        raise formats.refused(
            name, "a TIFF file whose colours are multiplied by alpha", "flatten it, or save it as PNG"
        )
    return samples
