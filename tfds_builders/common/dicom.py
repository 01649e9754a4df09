"""One DICOM file: its header, its stored values, and a radiograph's pixels as they are meant to be seen.

JPEG, JPEG-LS and JPEG 2000 are decoded by GDCM alone, so that a lossy image has the same pixels on every machine, in a
process apart, since damage can kill it; RLE and uncompressed pixels by pydicom itself.
"""

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import pydicom
from jaxtyping import Bool, Float, Num, UInt8
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from tfds_builders.common import decoding
from tfds_builders.common.archives import reason_of
from tfds_builders.common.damage import DamagedInput

MARK, MARK_AT = b"DICM", 128
GDCM_SYNTAXES = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}
JPEG_END = b"\xff\xd9"
LONGEST_REASON = 300


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins with these 132 bytes or more has the mark of a DICOM file."""
    return start[MARK_AT : MARK_AT + len(MARK)] == MARK


def read_image(data: bytes, name: str) -> UInt8[np.ndarray, "height width"]:
    """A radiograph as 8-bit grey levels, 0 black: air dark, bone bright, whatever the file's polarity.

    In this order, after DICOM PS3.3 C.11 and PS3.4 N.2: unused bits are dropped; the modality LUT or the rescale slope
    and intercept; the first VOI LUT, or else the first window (LINEAR, LINEAR_EXACT or SIGMOID), mapped to 0 to 255;
    MONOCHROME1 is inverted; padding pixels become 0. A window that is no window (width not positive) or that would
    leave one grey level of many is not meant and is passed over. Without LUT and window, an image of 8 bits keeps its
    values, and one of more bits is stretched from its least to its greatest value, padding aside: the depth that was
    used is often less than BitsStored.

    Args:
      data: the file.
      name: for messages.

    Raises DamagedInput for a file that is no DICOM, is cut short, holds several frames or colour, or raw detector
    values ('FOR PROCESSING').
    """
    with damage_named(name):
        dataset = parse(io.BytesIO(data), name)
        if dataset.get("PresentationIntentType") == "FOR PROCESSING":
            raise DamagedInput(f"{name} holds raw detector values (FOR PROCESSING): export the image FOR PRESENTATION")
        stored = stored_values(dataset, name)
        padding = padding_mask(stored, dataset)
        grey = to_grey(stored, dataset, padding)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            grey = 255 - grey
        return np.where(padding, np.uint8(0), grey)


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
    """As `parse`, but None for a file that does not begin as a DICOM file does."""
    with damage_named(name):
        if not is_dicom(file.read(MARK_AT + len(MARK))):
            return None
        file.seek(0)
        return pydicom.dcmread(file, stop_before_pixels=tags is not None, specific_tags=tags)


def stored_values(dataset: Dataset, name: str) -> Num[np.ndarray, "height width"]:
    """The one frame's integers as stored, unused bits dropped, signed where PixelRepresentation says so.

    Raises DamagedInput if there is no frame, more than one, colour, or fewer bytes than the header says.
    """
    with damage_named(name):
        check_frame(dataset, name)
        if dataset.file_meta.TransferSyntaxUID in GDCM_SYNTAXES:
            check_stream(dataset, name)
            return used_bits(decoding.decode(dataset), dataset)
        # pydicom's own correction takes HighBit for granted.
        return used_bits(pixel_array(dataset, raw=True, correct_unused_bits=False), dataset)


def check_frame(dataset: Dataset, name: str) -> None:
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
    stream = b"".join(pydicom.encaps.generate_fragments(dataset.PixelData)) if dataset.PixelData else b""
    if stream.find(JPEG_END, max(0, len(stream) - 64)) < 0:
        raise DamagedInput(f"{name}: the compressed pixels are cut short (no end mark): replace the file")


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


def to_grey(
    stored: Num[np.ndarray, "height width"], dataset: Dataset, padding: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width"]:
    """Modality and VOI transformation, to 0 to 255, before inversion."""
    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    inside = np.ones(stored.shape, bool) if padding.all() else ~padding
    low, high = float(values[inside].min()), float(values[inside].max())
    if dataset.get("VOILUTSequence"):
        greys = np.asarray(apply_voi_lut(np.rint(values).astype(np.int32), dataset, prefer_lut=True), np.float64)
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return scaled(greys, 0.0, max(2.0**depth - 1, float(greys.max())))
    shown = window(values, dataset)
    if shown is not None and (np.ptp(shown[inside]) > 0 or low == high):
        return scaled(shown, 0.0, 1.0)
    if int(dataset.BitsStored) <= 8 and low >= 0 and high <= 255:
        return scaled(values, 0.0, 255.0)
    return scaled(values, low, high)


def window(values: Float[np.ndarray, "*shape"], dataset: Dataset) -> Float[np.ndarray, "*shape"] | None:
    """The first window of the header, to 0 to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3); None if there is none."""
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return None
    centre, width = first(dataset.WindowCenter), first(dataset.WindowWidth)
    function = dataset.get("VOILUTFunction")
    if function not in ("LINEAR_EXACT", "SIGMOID"):
        # LINEAR, the default: its ends lie half a grey level inwards.
        centre, width = centre - 0.5, width - 1
    if not (math.isfinite(centre) and math.isfinite(width)) or width <= 0:
        return None
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    return np.clip((values - centre) / width + 0.5, 0, 1)


def first(value: object) -> float:
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else math.nan
    return float(value)


def scaled(values: Float[np.ndarray, "*shape"], low: float, high: float) -> UInt8[np.ndarray, "*shape"]:
    return np.rint((np.clip(values, low, high) - low) * (255 / (high - low or 1.0))).astype(np.uint8)
