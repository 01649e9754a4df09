"""One DICOM file: its header, its stored values, and a radiograph's pixels as they are meant to be seen.

JPEG, JPEG-LS and JPEG 2000 are decoded by GDCM alone, so that a lossy image has the same pixels on every machine, in a
process apart, since damage can kill it; JPEG of 12 bits, which GDCM does not take there, by imagecodecs; RLE and
uncompressed pixels by pydicom itself. What is read stands in `formats`.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import pydicom
from jaxtyping import Bool, Num, UInt8
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tfds_builders.common import decoding, formats, grey_levels
from tfds_builders.common.archives import reason_of
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.formats import DICOM_COMPRESSIONS, DICOM_MARK, DICOM_MARK_AT, DICOM_NAMES, Header, Kind
from tfds_builders.common.whole_jpeg import decode_jpeg

JPEG_END = b"\xff\xd9"
LONGEST_REASON = 300


def show(
    data: bytes, name: str, max_pixels: float = formats.MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "height width"], list[str]]:
    """A radiograph as 8-bit grey levels, 0 black: air dark, bone bright, whatever the file's polarity.

    In this order, after DICOM PS3.3 C.11 and PS3.4 N.2: unused bits are dropped; then the transformations of
    `grey_levels.to_grey`; MONOCHROME1 is inverted; padding pixels become 0.

    Args:
      data: the file, with or without the preamble and the mark.
      name: for messages.
      max_pixels: a larger image is refused before it is decoded.

    Returns the image, and notes of what was not as usual.

    Raises DamagedInput for a file that is no DICOM, is cut short, is of no kind in `formats.READABLE`, holds several
    frames or colour, or raw detector values ('FOR PROCESSING').
    """
    with damage_named(name):
        dataset = read_dataset(data, name)
        if dataset.get("PresentationIntentType") == "FOR PROCESSING":
            raise DamagedInput(f"{name} holds raw detector values (FOR PROCESSING): export the image FOR PRESENTATION")
        check_frame(dataset, name)
        formats.check(describe(dataset), name, max_pixels)
        stored = stored_values(dataset, name)
        padding = padding_mask(stored, dataset)
        grey, notes = grey_levels.to_grey(stored, dataset, padding)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            grey = 255 - grey
        return np.where(padding, np.uint8(0), grey), notes


def describe(dataset: Dataset) -> Header:
    return Header(
        Kind("DICOM", dataset.PhotometricInterpretation, int(dataset.BitsStored), compression(dataset)),
        int(dataset.Columns),
        int(dataset.Rows),
    )


def compression(dataset: Dataset) -> str:
    syntax = dataset.file_meta.TransferSyntaxUID
    return DICOM_COMPRESSIONS.get(syntax, syntax.name)


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Turns whatever pydicom or a decoder raises, and of a damaged file that is nearly anything, into DamagedInput."""
    try:
        yield
    except DamagedInput:
        raise
    except Exception as error:
        told = reason_of(error) if isinstance(error, (OSError, zipfile.BadZipFile)) else str(error)
        reason = " ".join(told.split()) or type(error).__name__
        raise DamagedInput(f"{name} cannot be read as DICOM ({reason[:LONGEST_REASON]}): replace it") from error


def parse(file: BinaryIO, name: str, tags: list[str] | None = None) -> Dataset:
    """The file's header, and its pixels, still encoded, unless only some `tags` are wanted.

    Raises DamagedInput if it is no DICOM file or its header cannot be read.
    """
    header = header_if_dicom(file, name, tags)
    if header is None:
        raise DamagedInput(f"{name} is empty or no DICOM file (no DICM mark): replace it")
    return header


def header_if_dicom(file: BinaryIO, name: str, tags: list[str] | None = None) -> Dataset | None:
    """As `parse`, but None for a file without the mark of a DICOM file."""
    with damage_named(name):
        if not formats.has_mark(file.read(DICOM_MARK_AT + len(DICOM_MARK))):
            return None
        file.seek(0)
        return pydicom.dcmread(file, stop_before_pixels=tags is not None, specific_tags=tags)


def read_dataset(data: bytes, name: str) -> Dataset:
    """As `parse`, also of a file without preamble and mark."""
    if formats.has_mark(data) or not formats.is_dicom_without_mark(data):
        return parse(io.BytesIO(data), name)
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def stored_values(dataset: Dataset, name: str) -> Num[np.ndarray, "height width"]:
    """The one frame's integers as stored, unused bits dropped, signed where PixelRepresentation says so.

    Raises DamagedInput if there is no frame, more than one, colour, or fewer bytes than the header says.
    """
    with damage_named(name):
        check_frame(dataset, name)
        if compression(dataset) not in DICOM_NAMES:
            raise formats.refused(name, f"DICOM with the compression {compression(dataset)}", formats.TO_RAW_DICOM)
        if compression(dataset) in decoding.COMPRESSIONS:
            check_stream(dataset, name)
            return used_bits(decoding.decode(dataset), dataset)
        # pydicom's own correction takes HighBit for granted.
        return used_bits(pixel_array(dataset, raw=True, correct_unused_bits=False), dataset)


def check_frame(dataset: Dataset, name: str) -> None:
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise formats.refused(name, "a DICOM file of floating point values", "export it as PNG of 16 bits")
    if "PixelData" not in dataset:
        raise DamagedInput(f"{name} has no whole PixelData: it is cut short, or no image; replace it or take it out")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise DamagedInput(
            f"{name} is a multi-frame file of {dataset.NumberOfFrames} frames: only single frames are read; "
            "export one file per frame"
        )
    kind = dataset.get("PhotometricInterpretation", "")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise DamagedInput(f"{name} is {kind or 'of unknown colours'}, not MONOCHROME1 or 2: export it as PNG")


def check_stream(dataset: Dataset, name: str) -> None:
    """Decoders may fill the missing part of a cut JPEG stream with grey."""
    stream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1) if dataset.PixelData else b""
    if stream.find(JPEG_END, max(0, len(stream) - 64)) < 0:
        raise DamagedInput(f"{name}: the compressed pixels are cut short (no end mark): replace the file")
    if compression(dataset) == "JPEG":
        decode_jpeg(stream, colour=False)


def used_bits(values: Num[np.ndarray, "height width"], dataset: Dataset) -> Num[np.ndarray, "height width"]:
    """BitsStored bits below HighBit, sign extended. Old scanners kept overlays in the bits above."""
    stored, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    high = int(dataset.get("HighBit", stored - 1))
    # A compressed stream holds the used bits only.
    shift = 0 if dataset.file_meta.TransferSyntaxUID.is_encapsulated else high + 1 - stored
    wide = (values.astype(np.int64) >> shift) & ((1 << stored) - 1)
    if signed:
        wide -= (wide >> (stored - 1)) << stored
    return wide.astype(np.int32)


def padding_mask(stored: Num[np.ndarray, "height width"], dataset: Dataset) -> Bool[np.ndarray, "height width"]:
    """Pixels outside of the field of view: PixelPaddingValue, up to PixelPaddingRangeLimit if there is one.

    Some scanners write padding into more bits than BitsStored. Without those bits, which `stored` lacks, it looks like
    tissue, so it is found in the values as they are in the file.
    """
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [as_stored(end, dataset) for end in (value, value if limit is None else limit)]
    mask = (stored >= min(ends)) & (stored <= max(ends))
    half = 1 << (int(dataset.BitsStored) - 1)
    low, high = (-half, half - 1) if dataset.PixelRepresentation else (0, 2 * half - 1)
    within = low <= min(ends) and max(ends) <= high
    # A compressed stream holds the used bits only.
    if within or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return mask
    written = pixel_array(dataset, raw=True, correct_unused_bits=False)
    return mask | ((written >= min(ends)) & (written <= max(ends)))


def as_stored(value: int, dataset: Dataset) -> int:
    """Signed padding values are often written as unsigned ones: 63536 is -2000."""
    bits = int(dataset.BitsAllocated)
    wrapped = int(value) & ((1 << bits) - 1)
    return wrapped - (1 << bits) if dataset.PixelRepresentation and wrapped >> (bits - 1) else wrapped
