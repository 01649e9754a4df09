"""What the headers of image files say, before a pixel is decoded: kind, size, orientation.

After ITU-T T.81 (JPEG), ISO/IEC 15948 (PNG), RFC 9649 (WebP), ISO/IEC 15444-1 (JPEG 2000), and the usual descriptions
of BMP, GIF and PNM.
"""

import re
import struct
from collections.abc import Callable, Iterator

from PIL import Image

from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.formats import COLOUR, COLOUR_ALPHA, GREY, GREY_ALPHA, PALETTE, Header, Kind

ADVICE = "replace the file by a whole one, or take its row out of the table"
# Segments of a JPEG file without a length: padding, restart markers, start of image.
JPEG_BARE = {0x01, 0xFF, *range(0xD0, 0xD9)}
JPEG_SCAN, JPEG_APP1, EXIF_MARK = 0xDA, 0xE1, b"Exif\0\0"
JPEG_FRAMES = {
    0xC0: "sequential",
    0xC1: "sequential",
    0xC2: "progressive",
    0xC3: "lossless",
    0xF7: "JPEG-LS",
    **dict.fromkeys((0xC5, 0xC6, 0xC7), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "arithmetic"),
}
JPEG_COLOURS = {1: GREY, 3: COLOUR, 4: "CMYK"}
# Luminance samples for each of the others, across and down, that TurboJPEG decodes.
JPEG_SAMPLING = {0x11, 0x12, 0x14, 0x21, 0x22, 0x41}
PNG_COLOURS = {0: GREY, 2: COLOUR, 3: PALETTE, 4: GREY_ALPHA, 6: COLOUR_ALPHA}
ORIENTATION = 0x0112
CODESTREAM = b"\xff\x4f\xff\x51"


def read_header(data: bytes, name: str, kind: str) -> Header:
    """Of a JPEG, PNG, WebP, JPEG 2000, BMP, GIF or PNM file. Raises DamagedInput if the header is cut or senseless."""
    try:
        return HEADERS[kind](data)
    except (struct.error, ValueError, IndexError, KeyError) as error:
        raise DamagedInput(f"image {name} is cut short or damaged ({error or 'no whole header'}): {ADVICE}") from error


def jpeg(data: bytes) -> Header:
    frame, orientation = None, 1
    for marker, start, end in jpeg_segments(data):
        if marker in JPEG_FRAMES:
            frame = JPEG_FRAMES[marker], *struct.unpack_from(">BHHB", data, start)
            sampling = [*data[start + 7 : end : 3]]
        elif marker == JPEG_APP1 and data.startswith(EXIF_MARK, start):
            orientation = exif_orientation(data[start:end])
    if frame is None:
        raise ValueError("no frame before the end")
    compression, bits, height, width, components = frame
    colour = JPEG_COLOURS.get(components, f"{components} channels")
    if colour == COLOUR and len(set(sampling)) > 1 and not (sampling[0] in JPEG_SAMPLING and {*sampling[1:]} == {0x11}):
        colour = f"sampled {', '.join(f'{factors >> 4}x{factors & 15}' for factors in sampling)}"
    return Header(Kind("JPEG", colour, bits, compression), width, height, orientation)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the segments before the pixels. An embedded thumbnail, which has marks of its own, lies
    in one of them.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == JPEG_SCAN:
            return
        position += 1 if marker == 0xFF else 2
        if marker not in JPEG_BARE:
            end = position + int.from_bytes(data[position : position + 2], "big")
            yield marker, position + 2, end
            position = end
    raise ValueError("the pixels are missing")


def png(data: bytes) -> Header:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    orientation = 1
    for kind, start, end in png_chunks(data):
        if kind == b"eXIf":
            orientation = exif_orientation(EXIF_MARK + data[start:end])
    return Header(Kind("PNG", PNG_COLOURS[colour], bits, "deflate"), width, height, orientation)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    position = 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if kind == b"IEND":
            return
        yield kind, position + 8, end
        position = end + 4
    raise ValueError("no end mark")


def webp(data: bytes) -> Header:
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise ValueError(f"{len(data)} bytes of {int.from_bytes(data[4:8], 'little') + 8}")
    position, orientation, flags, size = 12, 1, 0, (0, 0)
    compression = ""
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        start = position + 8
        if kind == b"VP8X":
            flags = data[start]
        elif kind == b"VP8 " and not compression:
            wide, high = struct.unpack_from("<HH", data, start + 6)
            compression, size = "lossy", (wide & 0x3FFF, high & 0x3FFF)
        elif kind == b"VP8L" and not compression:
            packed = int.from_bytes(data[start + 1 : start + 5], "little")
            compression, size = "lossless", ((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
            flags |= (packed >> 28 & 1) << 4
        elif kind == b"EXIF":
            orientation = exif_orientation(EXIF_MARK + data[start : start + length].removeprefix(EXIF_MARK))
        position = start + length + length % 2
    if flags & 2:
        return Header(Kind("WebP", "an animation", 8, "of frames"), *size)
    if not compression:
        raise ValueError("no picture in it")
    return Header(Kind("WebP", COLOUR_ALPHA if flags & 16 else COLOUR, 8, compression), *size, orientation)


def jpeg_2000(data: bytes) -> Header:
    start = data.index(CODESTREAM)
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    components, depth = struct.unpack_from(">HB", data, start + 40)
    colour = {1: GREY, 3: COLOUR}.get(components, f"{components} channels")
    bits, boxes = (depth & 0x7F) + 1, data[:start]
    if b"pclr" in boxes:
        colour = PALETTE
    found = boxes.find(b"colr\1")
    # The other enumerated colour spaces: YCC and the like.
    if found >= 0 and boxes[found + 7 : found + 11] not in (b"\0\0\0\x10", b"\0\0\0\x11"):
        colour = "another colour space than sRGB"
    if depth & 0x80:
        colour = f"signed {colour}"
    return Header(Kind("JPEG 2000", colour, bits, "in JP2" if start else "bare"), right - left, bottom - top)


def bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    if size < 40:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    known = "none" if compression == 0 else f"number {compression}"
    return Header(Kind("BMP", COLOUR if bits > 8 else PALETTE, bits, known), width, abs(height))


def gif(data: bytes) -> Header:
    return Header(Kind("GIF", PALETTE, 8, "LZW"), *struct.unpack_from("<HH", data, 6))


def pnm(data: bytes) -> Header:
    found = re.match(rb"P([56])(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)\s", data[:4096])
    width, height, greatest = (int(number) for number in found.groups()[1:]) if found else (0, 0, 0)
    if not found:
        raise ValueError("no whole header")
    bits = {255: 8, 65535: 16}.get(greatest, greatest.bit_length())
    depth = "none" if greatest in (255, 65535) else f"values to {greatest}"
    return Header(Kind("PNM", GREY if found[1] == b"5" else COLOUR, bits, depth), width, height)


HEADERS: dict[str, Callable[[bytes], Header]] = {
    "JPEG": jpeg,
    "PNG": png,
    "WebP": webp,
    "JPEG 2000": jpeg_2000,
    "BMP": bmp,
    "GIF": gif,
    "PNM": pnm,
}


def exif_orientation(segment: bytes) -> int:
    """Of a segment that begins with 'Exif'; 1, as stored, if it says nothing or nothing that there is."""
    exif = Image.Exif()
    try:
        exif.load(segment)
        found = exif.get(ORIENTATION, 1)
    # What Pillow raises for damaged EXIF data, without which the picture is still whole.
    except (SyntaxError, struct.error, ValueError, TypeError, KeyError, OSError, IndexError):
        return 1
    return found if found in range(1, 9) else 1
