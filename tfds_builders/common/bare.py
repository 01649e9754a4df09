"""JPEG and PNG files without what they say beside their pixels: EXIF data, comments, thumbnails, names, dates.

The compressed pixels stay as they are. JPEG segments after ITU-T T.81, annex B; PNG chunks after ISO/IEC 15948.
"""

import re

JPEG_START, JPEG_END, PNG_START = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
# Markers without a segment: padding, restart.
ALONE = {0x01, *range(0xD0, 0xD8)}
SCAN, END, COMMENT = 0xDA, 0xD9, 0xFE
APPLICATION = range(0xE0, 0xF0)
# Application segments that a decoder wants: the file's format, and how Adobe's programs stored the colours.
WANTED = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}
# Version 1.1, square pixels, no thumbnail: all that a reader needs.
JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\x00\x00\x01\x00\x01\x00\x00"
# In a scan, a byte 255 that begins a marker other than a restart.
NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
PNG_WANTED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def without_metadata(data: bytes) -> bytes | None:
    """The file with its pixels alone; None if it is neither JPEG nor PNG, or not built as these are."""
    if data.startswith(JPEG_START):
        return bare_jpeg(data)
    return bare_png(data) if data.startswith(PNG_START) else None


def bare_jpeg(data: bytes) -> bytes | None:
    kept, position = [JPEG_START], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in ALONE:
            position += 2
        elif marker == END:
            break
        else:
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            following = NEXT_MARKER.search(data, end) if marker == SCAN else None
            end = following.start() if following else end
            if is_wanted(marker, data[position + 4 : position + 9]):
                kept.append(JFIF if marker == 0xE0 else data[position:end])
            position = end
    return b"".join([*kept, JPEG_END]) if data[position : position + 2] == JPEG_END else None


def is_wanted(marker: int, start: bytes) -> bool:
    return start == WANTED.get(marker) if marker in APPLICATION else marker != COMMENT


def bare_png(data: bytes) -> bytes | None:
    kept, position = [PNG_START], len(PNG_START)
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if kind in PNG_WANTED:
            kept.append(data[position:end])
        if kind == b"IEND":
            return b"".join(kept)
        position = end
    return None
