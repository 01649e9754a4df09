"""From the stored values of a radiograph to grey levels, as its DICOM header describes it."""

import math

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.stretching import CLIPPED, used_range

# Where an enhanced file of one frame has what other files have at their top.
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
IMAGE_GROUP = 0x0028


def to_grey(
    stored: Num[np.ndarray, "height width"], dataset: Dataset, padding: Bool[np.ndarray, "height width"]
) -> tuple[UInt8[np.ndarray, "height width"], list[str]]:
    """Modality and VOI transformation to 0 to 255, before inversion, and notes.

    First the modality LUT, or the rescale slope and intercept (one alone counts; a slope of 0, noted, does not). Then
    the first VOI LUT, whose greatest entry is white, or else the first window (LINEAR, LINEAR_EXACT or SIGMOID). A
    window that is no window or that would leave one grey level of many is not meant and is passed over. Without LUT and
    window an image of 8 bits or fewer is spread from 0 to its greatest possible value, and one of more bits over
    `stretching.used_range`, padding aside: the depth that was used is often less than BitsStored.

    Raises DamagedInput for a look-up table that is not whole, and for a slope or intercept that is no number.
    """
    header, little = with_functional_groups(dataset), dataset.file_meta.TransferSyntaxUID.is_little_endian
    values, notes = rescaled(stored, header, little)
    inside = np.ones(stored.shape, bool) if padding.all() else ~padding
    low, high = float(values[inside].min()), float(values[inside].max())
    if header.get("VOILUTSequence"):
        table = LookUpTable(header.VOILUTSequence[0], little)
        return scaled(table.apply(np.rint(values)), 0.0, table.entries.max()), notes
    shown = window(values, header)
    if shown is not None and (np.ptp(shown[inside]) > 0 or low == high):
        return scaled(shown, 0.0, 1.0), notes
    greatest = 2.0 ** int(header.BitsStored) - 1
    if int(header.BitsStored) <= 8 and low >= 0 and high <= greatest:
        return scaled(values, 0.0, greatest), notes
    low, high, clipped = used_range(values[inside])
    return scaled(values, low, high), [*notes, CLIPPED] if clipped else notes


def with_functional_groups(dataset: Dataset) -> Dataset:
    """The elements that describe the values, those in the functional groups of a single frame among them."""
    header = dataset.group_dataset(IMAGE_GROUP)
    for sequence in GROUPS:
        for group in list(dataset.get(sequence) or ())[:1]:
            for macro in MACROS:
                for item in list(group.get(macro) or ())[:1]:
                    header.update(item)
    return header


def rescaled(
    stored: Num[np.ndarray, "height width"], header: Dataset, little: bool
) -> tuple[Float[np.ndarray, "height width"], list[str]]:
    if header.get("ModalityLUTSequence"):
        return LookUpTable(header.ModalityLUTSequence[0], little).apply(stored).astype(np.float64), []
    slope, intercept = first(header.get("RescaleSlope"), 1.0), first(header.get("RescaleIntercept"), 0.0)
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise DamagedInput(f"RescaleSlope {slope} and RescaleIntercept {intercept} are no numbers: replace the file")
    if slope == 0:
        return stored.astype(np.float64), ["slope 0 passed over"]
    return stored * slope + intercept, []


class LookUpTable:
    """A modality or VOI LUT (PS3.3 C.11.1.1 and C.11.2.1.1), read as it is meant where its descriptor is wrong.

    Args:
      item: of the sequence in the header.
      little: whether the file's bytes are in little endian order.

    Attributes:
      entries: uint8 or uint16. The descriptor's bits are not asked: some files overstate them.
    """

    def __init__(self, item: Dataset, little: bool):
        count, self._written, _ = (int(number) for number in item.LUTDescriptor)
        count = count % 65536 or 65536
        order, data = "<" if little else ">", item.LUTData
        if not isinstance(data, bytes):
            order, data = "<", np.array(data).astype("<u2").tobytes()
        if count <= len(data) <= count + 1:
            self.entries = np.frombuffer(data, np.uint8, count)
        elif len(data) == 2 * count:
            self.entries = np.frombuffer(data, f"{order}u2")
        else:
            raise DamagedInput(f"its look-up table has {len(data)} bytes for {count} entries: replace the file")
        if not self.entries.any():
            raise DamagedInput("its look-up table makes every pixel black: take the table out")

    def first(self, low: float, high: float) -> int:
        """Of the readings of what is written, as signed and as unsigned, the one whose table covers more of the
        values.
        """

        def covered(start: int) -> float:
            return min(high, start + len(self.entries) - 1) - max(low, start)

        other = self._written - 65536 if self._written >= 32768 else self._written + 65536
        return max((self._written, other), key=covered)

    def apply(self, values: Num[np.ndarray, "*shape"]) -> Num[np.ndarray, "*shape"]:
        """Values outside of the table get its first or last entry."""
        start = self.first(float(values.min()), float(values.max()))
        places = np.clip(values - start, 0, len(self.entries) - 1).astype(np.int64)
        return self.entries[places]


def window(values: Float[np.ndarray, "*shape"], header: Dataset) -> Float[np.ndarray, "*shape"] | None:
    """The first window of the header, to 0 to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3); None if there is none."""
    centre, width = first(header.get("WindowCenter"), math.nan), first(header.get("WindowWidth"), math.nan)
    if not (math.isfinite(centre) and math.isfinite(width)) or width <= 0:
        return None
    function = header.get("VOILUTFunction")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    if function != "LINEAR_EXACT":
        # LINEAR, the default: its ends lie half a grey level inwards, so that a width of 1 is a threshold.
        centre, width = centre - 0.5, width - 1
        if width <= 0:
            return (values > centre).astype(np.float64) if width == 0 else None
    return np.clip((values - centre) / width + 0.5, 0, 1)


def first(value: object, default: float) -> float:
    """The first of several numbers; `default` for an element that is absent or empty."""
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    return default if value is None or value == "" else float(value)


def scaled(values: Num[np.ndarray, "*shape"], low: float, high: float) -> UInt8[np.ndarray, "*shape"]:
    low, high = float(low), float(high)
    return np.rint((np.clip(values, low, high) - low) * (255 / (high - low or 1.0))).astype(np.uint8)
