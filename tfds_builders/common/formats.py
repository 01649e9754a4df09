"""Which files are read as images: the one list, which the readers ask and image_table's README shows.

A file is recognised by its first bytes, not by its suffix. What is on no line of `READABLE` is refused with its name
and with what converts it: it may be whole, so nobody is asked to replace it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tfds_builders.common.damage import DamagedInput

DICOM_MARK, DICOM_MARK_AT = b"DICM", 128
# The largest image that is decoded, unless a preparation is told another bound.
MAX_MEGAPIXELS = 100.0
MAX_PIXELS = MAX_MEGAPIXELS * 1e6

TO_PNG = "convert it to PNG (ImageMagick: magick FILE FILE.png)"
TO_RAW_DICOM = "decompress it (gdcmconv --raw FILE NEW), or export it as PNG"
UNPACK = "unpack it, and name the unpacked file in the table"


class Kind(NamedTuple):
    """What the header of a file says that it holds.

    Attributes:
      format: as in `READABLE`.
      colour: 'grey', 'colour', 'palette', or a word for what is not read.
      bits: of a sample; of DICOM files BitsStored.
      compression: of the pixels.
    """

    format: str
    colour: str
    bits: int
    compression: str


class Header(NamedTuple):
    """What is known of an image before it is decoded; `orientation` is that of EXIF, 1 to 8, 1: as stored."""

    kind: Kind
    width: int
    height: int
    orientation: int = 1


class Readable(NamedTuple):
    """A line of the list: every combination of its colours, bits and compressions is read."""

    format: str
    colours: Sequence[str]
    bits: Sequence[int]
    compressions: Sequence[str]
    library: str


LOSSLESS_TIFF = ("none", "LZW", "deflate", "PackBits", "zstd", "LZMA")
GREY, COLOUR, PALETTE = "grey", "colour", "palette"
GREY_ALPHA, COLOUR_ALPHA = "grey and alpha", "colour and alpha"
WHITE_IS_ZERO = "grey, white is 0"
DICOM_GREYS = ("MONOCHROME1", "MONOCHROME2")
# By transfer syntax.
DICOM_COMPRESSIONS = {
    "1.2.840.10008.1.2": "none",
    "1.2.840.10008.1.2.1": "none",
    "1.2.840.10008.1.2.2": "none",
    "1.2.840.10008.1.2.1.99": "deflate",
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.4.50": "JPEG",
    "1.2.840.10008.1.2.4.51": "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
DICOM_NAMES = frozenset(DICOM_COMPRESSIONS.values())
READABLE = (
    Readable("JPEG", (GREY, COLOUR), (8,), ("sequential", "progressive"), "simplejpeg"),
    Readable("PNG", (GREY, PALETTE), (1, 2, 4), ("deflate",), "imagecodecs"),
    Readable("PNG", (PALETTE,), (8,), ("deflate",), "imagecodecs"),
    Readable("PNG", (GREY, GREY_ALPHA, COLOUR, COLOUR_ALPHA), (8, 16), ("deflate",), "imagecodecs"),
    Readable("TIFF", (GREY, WHITE_IS_ZERO), (1, 4, 8, 16), LOSSLESS_TIFF, "tifffile"),
    Readable("TIFF", (GREY_ALPHA, COLOUR, COLOUR_ALPHA), (8, 16), LOSSLESS_TIFF, "tifffile"),
    Readable("TIFF", (PALETTE,), (4, 8), LOSSLESS_TIFF, "tifffile"),
    Readable("TIFF", (GREY, COLOUR), (8,), ("JPEG",), "tifffile"),
    Readable("TIFF", (GREY, COLOUR), (8, 16), ("JPEG 2000",), "tifffile"),
    Readable("DICOM", DICOM_GREYS, range(1, 17), ("none", "deflate"), "pydicom"),
    Readable("DICOM", DICOM_GREYS, range(2, 17), ("RLE",), "pydicom"),
    Readable("DICOM", DICOM_GREYS, range(8, 17), ("JPEG lossless", "JPEG-LS"), "gdcm"),
    Readable("DICOM", DICOM_GREYS, range(2, 17), ("JPEG 2000",), "gdcm"),
    Readable("DICOM", DICOM_GREYS, (8,), ("JPEG",), "gdcm"),
    Readable("DICOM", DICOM_GREYS, (8, 12), ("JPEG extended",), "gdcm; imagecodecs of 12 bits"),
    Readable("WebP", (COLOUR, COLOUR_ALPHA), (8,), ("lossy", "lossless"), "imagecodecs"),
    Readable("JPEG 2000", (GREY, COLOUR), (8, 12, 16), ("in JP2", "bare"), "imagecodecs"),
    Readable("HEIC", (COLOUR, COLOUR_ALPHA), (8,), ("HEVC",), "pillow-heif"),
    Readable("BMP", (PALETTE,), (8,), ("none",), "Pillow"),
    Readable("BMP", (COLOUR,), (24, 32), ("none",), "Pillow"),
    Readable("GIF", (PALETTE,), (8,), ("LZW",), "Pillow"),
    Readable("PNM", (GREY,), (8, 16), ("none",), "Pillow"),
    Readable("PNM", (COLOUR,), (8,), ("none",), "Pillow"),
)
FORMATS = tuple(dict.fromkeys(line.format for line in READABLE))

# First bytes and the format; of what is not read, also what helps.
STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    *((start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    *((start, "JPEG 2000") for start in (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    *((start, "GIF") for start in (b"GIF87a", b"GIF89a")),
    (b"BM", "BMP"),
    *((b"P" + kind, "PNM") for kind in (b"5\n", b"6\n", b"5 ", b"6 ", b"5\r", b"6\r", b"5\t", b"6\t")),
)
REFUSED_STARTS = (
    (b"\x1f\x8b", "a gzip file", UNPACK),
    (b"PK\3\4", "a ZIP file", UNPACK),
    (b"BZh", "a bzip2 file", UNPACK),
    (b"\xfd7zXZ", "an xz file", UNPACK),
    (b"7z\xbc\xaf", "a 7-Zip file", UNPACK),
    (b"(\xb5/\xfd", "a Zstandard file", UNPACK),
    (b"\xff\x0a", "a JPEG XL file", TO_PNG),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file", TO_PNG),
    (b"8BPS", "a Photoshop file", "export it as PNG"),
    (b"%PDF", "a PDF file", "export its pictures as PNG (pdfimages -png)"),
    (b"v/1\1", "an OpenEXR file", TO_PNG),
    (b"#?", "a Radiance HDR file", TO_PNG),
    (b"FUJIFILM", "a raw photograph", "export it as JPEG or PNG"),
    (b"\x93NUMPY", "an array of NumPy", "save it as PNG"),
    (b"\x89HDF", "an HDF5 file", "save its pictures as PNG"),
    (b"NRRD", "an NRRD file", "save its slices as PNG"),
    (b"ObjectType", "a MetaImage file", "save its slices as PNG, or prepare volumes with ct_patches"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the image", "fetch the file (git lfs pull)"),
    (b"<", "text of a web page or an SVG drawing, not an image", "download the image again, or export it as PNG"),
    *((b"P" + kind, "a PNM file of bits or in text", TO_PNG) for kind in (b"1", b"2", b"3", b"4", b"7")),
)
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"}
BRANDS = ((b"avif", "an AVIF file", TO_PNG), (b"crx ", "a raw photograph", "export it as JPEG or PNG"))


def recognise(data: bytes, name: str) -> str:
    """The format of a file, one of `FORMATS`. Raises DamagedInput with its name and the way out for any other."""
    if not data:
        raise DamagedInput(f"image {name} is empty: replace the file by a whole one, or take its row out of the table")
    if has_mark(data) or is_dicom_without_mark(data):
        return "DICOM"
    for start, found in STARTS:
        if data.startswith(start):
            return found
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return recognise_brand(data, name)
    for start, found, advice in REFUSED_STARTS:
        if data[:64].lstrip().startswith(start):
            raise refused(name, found, advice)
    # Word 344 of a NIfTI file is its mark.
    if data[344:347] in (b"n+1", b"ni1"):
        raise refused(name, "a NIfTI file", "save its slices as PNG")
    raise refused(
        name, f"of no known format (it begins with {data[:8]!r})", f"convert it to one of {', '.join(FORMATS)}"
    )


def has_mark(start: bytes) -> bool:
    """Whether a file that begins with these 132 bytes or more has the mark of a DICOM file."""
    return start[DICOM_MARK_AT : DICOM_MARK_AT + len(DICOM_MARK)] == DICOM_MARK


def is_dicom_without_mark(start: bytes) -> bool:
    """Whether a file begins with an element of group 2 or 8, as DICOM files do after the 128 bytes and the mark that
    some programs leave out.
    """
    return start[:2] in (b"\x02\0", b"\x08\0") and start[3:4] == b"\0"


def recognise_brand(data: bytes, name: str) -> str:
    """Of the files that are built like MP4."""
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[place : place + 4] for place in range(16, end, 4))}
    for brand, found, advice in BRANDS:
        if brand in brands:
            raise refused(name, found, advice)
    if brands & HEIC_BRANDS:
        return "HEIC"
    raise refused(name, "a video", "export its frames as PNG")


def refused(name: str, found: str, advice: str) -> DamagedInput:
    """The error for a whole file that is not read."""
    return DamagedInput(f"image {name} is {found}, which is not read: {advice}")


def check(header: Header, name: str, max_pixels: float) -> None:
    """Raises DamagedInput for a kind of image that is on no line of the list, and for a size that the decoded image
    must not have: a small file can hold a picture that fills the memory.
    """
    kind = header.kind
    lines = [line for line in READABLE if line.format == kind.format]
    if not any(
        kind.colour in line.colours and kind.bits in line.bits and kind.compression in line.compressions
        for line in lines
    ):
        advice = TO_RAW_DICOM if kind.format == "DICOM" else TO_PNG
        raise refused(
            name, f"{kind.format} of {kind.bits} bits, {kind.colour}, with the compression {kind.compression}", advice
        )
    if header.width * header.height > max_pixels:
        raise DamagedInput(
            f"image {name} is {header.width}x{header.height} pixels, more than the {max_pixels / 1e6:g} megapixels "
            "that are decoded: shrink it, or allow more with max_megapixels"
        )


def as_markdown() -> str:
    """The list as a table for the documentation."""
    lines = ["| format | picture | bits | compression |", "|---|---|---|---|"]
    for line in READABLE:
        bits = f"{line.bits[0]} to {line.bits[-1]}" if len(line.bits) > 4 else ", ".join(map(str, line.bits))
        lines.append(f"| {line.format} | {' · '.join(line.colours)} | {bits} | {' · '.join(line.compressions)} |")
    return "\n".join(lines) + "\n"
