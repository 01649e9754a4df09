"""The slices of a CT series: headers, order, duplicates, gaps, Hounsfield units."""

import dataclasses
import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from jaxtyping import Float, Int16
from pydicom.dataset import Dataset

from tfds_builders.common import dicom
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.locations import Files, Location

# Nothing is less dense than vacuum; what scanners write below, around the field of view, is no measurement.
LOWEST_HU = -1024
# Slices this near, in mm, lie at one position.
SAME_POSITION = 0.01
# Relative deviation of a distance between slices from the median that rounding in headers explains.
UNEVEN = 0.1
# Of direction cosines and pixel spacings, which are written with few digits.
ROUNDING = 1e-3
# Shift of slices within their plane over the whole series, in pixels: noted from the first on, refused from the second.
SHIFT_NOTED, SHIFT_REFUSED = 0.1, 1.0
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
      row, column: unit vectors along a row (x of the image) and along a column (y of the image).
      spacing: mm between rows, between columns (y, x).
      shape: rows, columns.
      frame: FrameOfReferenceUID, empty where there is none; positions of two frames cannot be compared.
      acquisition, number: AcquisitionNumber and InstanceNumber, infinite where there is none.
      thickness: mm, 0 where not given.
    """

    location: Location
    corner: Float[np.ndarray, "3"]
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

    @property
    def rank(self) -> tuple[float, float]:
        """Of slices at one position, the lowest stays."""
        return self.acquisition, self.number


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


def in_order(slices: Sequence[Slice]) -> list[Slice]:
    """By position; by AcquisitionNumber, then InstanceNumber, at one position."""
    places = positions_of(slices)
    return [slices[i] for i in sorted(range(len(slices)), key=lambda i: (places[i], slices[i].rank))]


def drop_duplicates(slices: Sequence[Slice], files: Files) -> tuple[list[Slice], list[str]]:
    """Ordered slices with one left at each position, that of lowest rank, and notes of the others.

    Raises DamagedInput if slices differ at one position and their ranks do not say which one belongs to the others.
    """
    kept: list[Slice] = []
    places: list[float] = []
    identical, different = [], []
    for item, place in zip(slices, positions_of(slices), strict=True):
        if not kept or place - places[-1] > SAME_POSITION:
            kept.append(item)
            places.append(place)
            continue
        low, high = sorted((kept[-1], item), key=lambda each: each.rank)
        kept[-1] = low
        equal = (read_hounsfield(low, files)[0] == read_hounsfield(high, files)[0]).all()
        if not equal and low.rank == high.rank:
            raise DamagedInput(f"two acquisitions are mixed: {low.location} and {high.location} lie at {place:g} mm, "
                               "differ and have one InstanceNumber: make a series of each")  # fmt: skip
        (identical if equal else different).append(f"{place:g} mm")
    notes = []
    if identical:
        notes.append(f"{len(identical)} identical slices at one position with another were dropped: {some(identical)}")
    if different:
        notes.append(
            f"{len(different)} slices that differ from another at their position were dropped, the lower "
            f"AcquisitionNumber or, if it is the same, InstanceNumber kept: {some(different)}"
        )
    return kept, notes


def check_acquisitions(slices: Sequence[Slice]) -> None:
    """Raises DamagedInput if ordered slices of several acquisitions alternate. One after another, as of a scan in
    steps, they make one volume.
    """
    runs = [number for number, _ in groupby(item.acquisition for item in slices)]
    if len(runs) > len(set(runs)):
        raise DamagedInput(f"{len(set(runs))} acquisitions are mixed: along the series AcquisitionNumber changes "
                           f"{len(runs) - 1} times: make a series of each")  # fmt: skip


def slice_spacing(slices: Sequence[Slice]) -> tuple[float, list[str]]:
    """Median distance of the ordered slices, mm, and notes; SliceThickness stands in for it in a series of one slice.

    Raises DamagedInput if a slice is missing or the distances are uneven.
    """
    if len(slices) == 1:
        if slices[0].thickness <= 0:
            raise DamagedInput(f"{slices[0].location} is the only slice and has no SliceThickness: no spacing")
        return slices[0].thickness, ["one slice: its SliceThickness is taken for the spacing"]
    places = positions_of(slices)
    distances = np.diff(places)
    median = float(np.median(distances))
    off = np.flatnonzero(abs(distances / median - 1) > UNEVEN)
    if not len(off):
        return median, []
    shown = some([f"{places[i]:g} and {places[i + 1]:g} mm" for i in off])
    multiples = np.rint(distances[off] / median)
    if (abs(distances[off] / median - multiples) <= UNEVEN * multiples).all() and (multiples > 1).all():
        missing = int((multiples - 1).sum())
        raise DamagedInput(f"{missing} slices are missing: {median:g} mm apart but for the gaps between {shown}")
    raise DamagedInput(f"the slices are not evenly spaced: {median:g} mm apart but between {shown}")


def check_shift(slices: Sequence[Slice]) -> list[str]:
    """Notes of slices that are shifted against each other within their plane, as by a tilted gantry.

    Raises DamagedInput if the shift exceeds a pixel: rows and columns would be no straight lines through the body.
    """
    corners = np.stack([item.corner for item in slices]) - slices[0].corner
    one = slices[0]
    shifts = np.stack([corners @ one.column, corners @ one.row], axis=-1)
    largest = float(abs(shifts).max())
    pixel = min(one.spacing)
    if largest <= SHIFT_NOTED * pixel:
        return []
    height = float(np.ptp(positions_of(slices))) or 1.0
    angle = math.degrees(math.atan2(largest, height))
    text = f"slices are shifted within their plane by up to {largest:.2f} mm ({angle:.2f} degrees over the series)"
    if largest > SHIFT_REFUSED * pixel:
        raise DamagedInput(f"{text}: a tilted gantry; resample the series to a straight volume first")
    return [text]


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
