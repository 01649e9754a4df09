"""Image files made for tests, one of every kind that is read, and tags and chunks to bend them."""

import io
import lzma
import struct
import zlib
from collections.abc import Sequence

import cv2
import imagecodecs
import numpy as np
import pillow_heif
from dicom_files import radiograph, to_bytes
from PIL import Image
from pydicom.encaps import encapsulate

from tfds_builders.common.formats import (
    COLOUR,
    COLOUR_ALPHA,
    DICOM_COMPRESSIONS,
    GREY,
    GREY_ALPHA,
    PALETTE,
    WHITE_IS_ZERO,
    Kind,
)

HEIGHT, WIDTH = 20, 24
PALETTE_COLOURS = np.random.default_rng(5).integers(0, 256, (256, 3), dtype=np.uint8)
CHANNELS = {GREY: 1, GREY_ALPHA: 2, COLOUR: 3, COLOUR_ALPHA: 4, PALETTE: 1, WHITE_IS_ZERO: 1}


def samples(colour: str, bits: int) -> np.ndarray:
    """Smooth, so that a lossy file is close to them; every value of few bits occurs."""
    rows, columns, channels = np.mgrid[:HEIGHT, :WIDTH, : CHANNELS.get(colour, 1)]
    wave = 0.5 + 0.5 * np.cos(rows / 7 + channels) * np.cos(columns / 9 + channels / 2)
    values = np.round(wave * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)
    return values[..., 0] if values.shape[-1] == 1 else values


def packed(values: np.ndarray, bits: int) -> list[bytes]:
    """The rows of an image of 1, 2, 4, 8 or 16 bits, big endian."""
    if bits >= 8:
        return [row.astype(f">u{bits // 8}").tobytes() for row in values]
    return [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes() for row in values]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(values: np.ndarray, colour: str, bits: int, chunks: bytes = b"", size: Sequence[int] = ()) -> bytes:
    """After ISO/IEC 15948. `size` (width, height) overwrites the true one."""
    number = {GREY: 0, COLOUR: 2, PALETTE: 3, GREY_ALPHA: 4, COLOUR_ALPHA: 6}[colour]
    head = struct.pack(">IIBBBBB", *(size or (values.shape[1], values.shape[0])), bits, number, 0, 0, 0)
    palette = png_chunk(b"PLTE", PALETTE_COLOURS[: 2**bits].tobytes()) if colour == PALETTE else b""
    lines = zlib.compress(b"".join(b"\0" + row for row in packed(values, bits)))
    body = png_chunk(b"IHDR", head) + palette + chunks + png_chunk(b"IDAT", lines) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


TIFF_COMPRESSIONS = {
    "none": (1, bytes),
    "LZW": (5, imagecodecs.lzw_encode),
    "deflate": (8, zlib.compress),
    "PackBits": (32773, imagecodecs.packbits_encode),
    "zstd": (50000, imagecodecs.zstd_encode),
    "LZMA": (34925, lzma.compress),
}


def tiff(
    values: np.ndarray, bits: int, photometric: int, compression: int, strip: bytes, tags: dict | None = None
) -> bytes:
    """One page, one strip, big endian, after TIFF 6.0. `tags`: number to (type 3 or 4, values)."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    entries = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * channels), 259: (3, [compression]),
        262: (3, [photometric]), 277: (3, [channels]), 278: (4, [height]), 279: (4, [len(strip)]),
    }  # fmt: skip
    entries = {**entries, 273: (4, [0]), **(tags or {})}
    size = {3: 2, 4: 4}
    end = 8 + 2 + 12 * len(entries) + 4
    long = [number for number in sorted(entries) if len(entries[number][1]) * size[entries[number][0]] > 4]
    places = {}
    for number in long:
        kind, content = entries[number]
        places[number], end = end, end + len(content) * size[kind]
    entries[273] = (4, [end])
    head, far = struct.pack(">2sHIH", b"MM", 42, 8, len(entries)), b""
    for number in sorted(entries):
        kind, content = entries[number]
        data = struct.pack(f">{len(content)}{'HI'[kind - 3]}", *content)
        if number in places:
            far, data = far + data, struct.pack(">I", places[number])
        head += struct.pack(">HHI", number, kind, len(content)) + data.ljust(4, b"\0")
    return head + b"\0" * 4 + far + strip


def tiff_of(colour: str, bits: int, compression: str) -> bytes:
    values = samples(colour, bits)
    photometric = {WHITE_IS_ZERO: 0, COLOUR: 2, COLOUR_ALPHA: 2, PALETTE: 3}.get(colour, 1)
    tags = {338: (3, [2])} if colour in (GREY_ALPHA, COLOUR_ALPHA) else {}
    if colour == PALETTE:
        tags[320] = (3, (PALETTE_COLOURS[: 2**bits].T.astype(int) * 257).ravel().tolist())
    if compression in TIFF_COMPRESSIONS:
        number, encode = TIFF_COMPRESSIONS[compression]
        strip = encode(b"".join(packed(values, bits)))
    elif compression == "JPEG":
        number, strip = 7, jpeg_of(colour, "sequential")
        photometric = 6 if colour == COLOUR else 1
        tags = {530: (3, [2, 2])} if colour == COLOUR else {}
    else:
        number, strip = 34712, jpeg_2000_of(values, False)
    return tiff(values, bits, photometric, number, strip, tags)


def jpeg_of(colour: str, compression: str) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(samples(colour, 8))
    sampling = "4:2:0" if colour == COLOUR else "4:4:4"
    picture.save(buffer, "JPEG", quality=95, progressive=compression == "progressive", subsampling=sampling)
    return buffer.getvalue()


def jpeg_2000_of(values: np.ndarray, boxed: bool, bits: int | None = None) -> bytes:
    """Lossless."""
    return imagecodecs.jpeg2k_encode(values, reversible=True, codecformat="jp2" if boxed else "j2k", bitspersample=bits)


def saved(values: np.ndarray, suffix: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, suffix, **options)
    return buffer.getvalue()


def heic(values: np.ndarray, **options) -> bytes:
    """Without loss but for the change of colours, which rounds."""
    buffer = io.BytesIO()
    picture = pillow_heif.from_pillow(Image.fromarray(values))
    picture.save(buffer, quality=-1, chroma=444, **options)
    return buffer.getvalue()


def palette_picture() -> Image.Image:
    picture = Image.fromarray(samples(PALETTE, 8), "P")
    picture.putpalette(PALETTE_COLOURS.ravel().tolist())
    return picture


def bmp(colour: str, bits: int) -> bytes:
    buffer = io.BytesIO()
    picture = palette_picture() if colour == PALETTE else Image.fromarray(samples(COLOUR, 8))
    (picture.convert("RGBA") if bits == 32 else picture).save(buffer, "BMP")
    data = buffer.getvalue()
    # Pillow writes 32 bits with masks for the channels, in the order that is usual without.
    return data[:30] + b"\0" * 4 + data[34:] if bits == 32 else data


def pnm(colour: str, bits: int) -> bytes:
    kind = b"P5" if colour == GREY else b"P6"
    head = kind + f"\n# a comment\n{WIDTH} {HEIGHT}\n{2**bits - 1}\n".encode()
    return head + b"".join(packed(samples(colour, bits), bits))


def dicom(colour: str, bits: int, compression: str) -> bytes:
    """Without a window; compressed where imagecodecs or pydicom can."""
    values = samples(GREY, bits)
    dataset = radiograph(values, bits, PhotometricInterpretation=colour)
    syntax = next(syntax for syntax, name in DICOM_COMPRESSIONS.items() if name == compression)
    encoders = {
        "JPEG": lambda: jpeg_of(GREY, "sequential"),
        "JPEG extended": lambda: imagecodecs.jpeg8_encode(values, level=95, bitspersample=bits),
        "JPEG lossless": lambda: imagecodecs.ljpeg_encode(values, bitspersample=max(bits, 2)),
        "JPEG-LS": lambda: imagecodecs.jpegls_encode(values),
        "JPEG 2000": lambda: jpeg_2000_of(values, False, bits),
    }
    if bits == 1:
        dataset.BitsAllocated = 1
        dataset.PixelData = np.packbits(values.ravel(), bitorder="little").tobytes()
        dataset["PixelData"].VR = "OB"
    if compression == "RLE":
        dataset.compress("1.2.840.10008.1.2.5")
    elif compression in encoders:
        dataset.PixelData = encapsulate([encoders[compression]()])
        dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    return to_bytes(dataset)


def file_of(kind: Kind) -> bytes:
    """A file of a kind in the list."""
    colour, bits, compression = kind[1:]
    match kind.format:
        case "JPEG":
            return jpeg_of(colour, compression)
        case "PNG":
            return png(samples(colour, bits), colour, bits)
        case "TIFF":
            return tiff_of(colour, bits, compression)
        case "DICOM":
            return dicom(colour, bits, compression)
        case "WebP":
            return saved(samples(colour, 8), "WEBP", lossless=compression == "lossless", exact=True)
        case "JPEG 2000":
            return jpeg_2000_of(samples(colour, bits), compression == "in JP2", bits)
        case "HEIC":
            return heic(samples(colour, 8))
        case "BMP":
            return bmp(colour, bits)
        case "GIF":
            buffer = io.BytesIO()
            palette_picture().save(buffer, "GIF")
            return buffer.getvalue()
        case "PNM":
            return pnm(colour, bits)


def with_orientation(kind: str, values: np.ndarray, orientation: int) -> bytes:
    """A lossless or nearly lossless file that is to be shown turned."""
    exif = Image.Exif()
    exif[274] = orientation
    if kind == "TIFF":
        return tiff(values, 8, 2, 1, values.tobytes(), {274: (3, [orientation])})
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    return saved(values, kind, exif=exif, **options)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Of OpenCV's BGR."""
    return image if image.ndim == 2 else cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)
