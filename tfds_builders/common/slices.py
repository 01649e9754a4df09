"""The slices of a CT series: their headers, whether they are of one volume, and their Hounsfield units."""

import dataclasses
import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
from jaxtyping import Float, Int16
from pydicom.dataset import Dataset

from tfds_builders.common import dicom
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.locations import Files, Location

# Nothing is less dense than vacuum; what scanners write below, around the field of view, is no measurement.
LOWEST_HU = -1024
# Of direction cosines and pixel spacings, which are written with few digits.
ROUNDING = 1e-3
TAGS = [
    "SOPInstanceUID", "SeriesInstanceUID", "PatientID", "PatientIdentityRemoved", "FrameOfReferenceUID",
    "AcquisitionNumber", "InstanceNumber", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "Rows", "Columns",
]  # fmt: skip
SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Slice:
    """What the header of a slice says.

    Attributes:
      corner: centre of its first pixel, mm (x, y, z).
      unit: of the last decimal with which the header has each of the three, mm; see `last_decimal`.
      row, column: unit vectors along a row (x of the image) and along a column (y of the image).
      spacing: mm between rows, between columns (y, x).
      shape: rows, columns.
      frame: FrameOfReferenceUID, empty where there is none; positions of two frames cannot be compared.
      acquisition, number: AcquisitionNumber and InstanceNumber, infinite where there is none.
      thickness: mm, 0 where not given.
    """

    location: Location
    corner: Float[np.ndarray, "3"]
    unit: tuple[float, float, float]
    row: Float[np.ndarray, "3"]
    column: Float[np.ndarray, "3"]
    spacing: tuple[float, float]
    shape: tuple[int, int]
    frame: str
    acquisition: float
    number: float
    thickness: float
    sop_uid: str
    series_uid: str
    patient_id: str
    deidentified: bool

    @property
    def normal(self) -> Float[np.ndarray, "3"]:
        return np.cross(self.row, self.column)


def read_slice(location: Location, files: Files) -> Slice:
    """The header of a slice; DamagedInput if it does not say where the slice lies."""
    with dicom.damage_named(str(location)), files.open(location) as file:
        return placed(location, dicom.parse(file, str(location), TAGS))


def placed(location: Location, header: Dataset) -> Slice:
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise DamagedInput(f"{location} is a multi-frame file of {header.NumberOfFrames} frames: convert it to one "
                           "file per slice")  # fmt: skip
    corner = numbers(header, "ImagePositionPatient", 3, location)
    row, column = np.split(numbers(header, "ImageOrientationPatient", 6, location), 2)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > ROUNDING:
        raise DamagedInput(f"{location}: ImageOrientationPatient {row}, {column} is no pair of perpendicular unit "
                           "vectors: the header is damaged")  # fmt: skip
    spacing = numbers(header, "PixelSpacing", 2, location)
    shape = (int(header.get("Rows") or 0), int(header.get("Columns") or 0))
    if min(*spacing, *shape) <= 0:
        raise DamagedInput(f"{location}: PixelSpacing, Rows and Columns must be positive: the header is damaged")
    return Slice(
        location=location,
        corner=corner,
        unit=tuple(last_decimal(value) for value in header.ImagePositionPatient),
        row=row / lengths[0],
        column=column / lengths[1],
        spacing=tuple(spacing.tolist()),
        shape=shape,
        frame=str(header.get("FrameOfReferenceUID") or ""),
        acquisition=number_or_infinite(header, "AcquisitionNumber"),
        number=number_or_infinite(header, "InstanceNumber"),
        thickness=float(header.get("SliceThickness") or 0),
        sop_uid=str(header.get("SOPInstanceUID") or ""),
        series_uid=str(header.get("SeriesInstanceUID") or ""),
        patient_id=str(header.get("PatientID") or "").strip(),
        deidentified=header.get("PatientIdentityRemoved") == "YES",
    )


def numbers(header: Dataset, tag: str, count: int, location: Location) -> Float[np.ndarray, "count"]:
    try:
        values = np.array([float(value) for value in header[tag].value])
    except (KeyError, TypeError, ValueError):
        values = np.array([])
    if values.shape != (count,) or not np.isfinite(values).all():
        raise DamagedInput(f"{location} has no {tag} of {count} numbers: the slice cannot be placed")
    return values


def last_decimal(value: object) -> float:
    """What one unit of the last decimal of a number is, as the header has it: 0.1 for 2.50, 1 for 30.0. Zeros at the
    end do not count, since programs write them to rounded numbers too.
    """
    text = getattr(value, "original_string", None) or str(value)
    return 10.0 ** min(Decimal(text.strip()).normalize().as_tuple().exponent, 0)


def number_or_infinite(header: Dataset, tag: str) -> float:
    value = header.get(tag)
    return math.inf if value in (None, "") else int(value)


def check_alike(slices: Sequence[Slice]) -> None:
    """Raises DamagedInput, naming two files and what they differ in, unless all slices are of one volume."""
    one = slices[0]
    for other in slices:
        for attribute in ("series_uid", "patient_id", "frame", "shape"):
            if getattr(other, attribute) != getattr(one, attribute):
                differ(attribute, one, other)
        if max(abs(other.row - one.row).max(), abs(other.column - one.column).max()) > ROUNDING:
            differ("orientation", one, other)
        if not np.allclose(other.spacing, one.spacing, rtol=ROUNDING, atol=0):
            differ("spacing", one, other)


def differ(what: str, one: Slice, other: Slice) -> None:
    # A patient's id is not for reports.
    shown = {
        "series_uid": "SeriesInstanceUID", "patient_id": "PatientID", "frame": "FrameOfReferenceUID",
        "shape": "Rows and Columns", "spacing": "PixelSpacing", "orientation": "ImageOrientationPatient",
    }[what]  # fmt: skip
    both = f" ({getattr(one, what)} and {getattr(other, what)})" if what not in ("patient_id", "orientation") else ""
    raise DamagedInput(f"the series is mixed: {shown} of {one.location} and of {other.location} differ{both}")


def positions_of(slices: Sequence[Slice]) -> Float[np.ndarray, "slices"]:
    """mm along the normal of the first slice."""
    return np.stack([item.corner for item in slices]) @ slices[0].normal


def read_hounsfield(item: Slice, files: Files) -> tuple[Int16[np.ndarray, "height width"], bool]:
    """HU of a slice, none below LOWEST_HU, and whether the file was lossily compressed.

    Raises DamagedInput if it cannot be decoded or has no rescaling to HU.
    """
    name = str(item.location)
    with dicom.damage_named(name), files.open(item.location) as file:
        dataset = dicom.parse(file, name)
        slope, intercept = (number_or_nan(dataset, tag) for tag in ("RescaleSlope", "RescaleIntercept"))
        if not math.isfinite(slope * intercept) or slope == 0:
            raise DamagedInput(f"{name} has no RescaleSlope and RescaleIntercept: its Hounsfield units are unknown")
        unit = str(dataset.get("RescaleType") or "HU")
        if unit not in ("HU", "HU_MOD"):
            raise DamagedInput(f"{name} is rescaled to {unit}, not to Hounsfield units")
        stored = dicom.stored_values(dataset, name)
        values = np.rint(stored * slope + intercept)
        values[dicom.padding_mask(stored, dataset)] = LOWEST_HU
        lossy = dataset.get("LossyImageCompression") == "01"
    return values.clip(LOWEST_HU, np.iinfo(np.int16).max).astype(np.int16), lossy


def number_or_nan(dataset: Dataset, tag: str) -> float:
    value = dataset.get(tag)
    return math.nan if value is None else float(value)


def some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:SHOWN]) + (" …" if len(texts) > SHOWN else "")
