"""The distance between the slices of a CT series, judged by the precision of their written positions."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.slices import Slice, positions_of, some

# How far a slice may lie off the even grid, as a share of the spacing, besides what rounding explains. Also: by which
# share an odd distance differs from the usual one, and up to which share of the distances odd ones are few.
UNEVEN = 0.1
# A distance of more than this many usual ones is a gap.
GAP = 1.5
# Positions that are rounded to more than this share of the spacing do not tell a gap from a rounded distance.
COARSE = 0.25
# Shift of slices within their plane over the whole series, in pixels: noted from the first on, refused from the second.
SHIFT_NOTED, SHIFT_REFUSED = 0.1, 1.0
DIGITS = 9


def slice_spacing(slices: Sequence[Slice]) -> tuple[float, float, list[str]]:
    """Spacing of the even grid that fits the positions of the ordered slices best, by least squares.

    Headers often have positions with one decimal, so that slices 1.25 mm apart lie at 0, 1.2, 2.5 and 3.8 mm. Each
    distance is then wrong by up to 0.1 mm, but the grid through all positions is not.

    Returns the spacing, mm; how far the grid's first point lies above the first slice along the normal, mm; and notes.
    SliceThickness stands in for the spacing in a series of one slice.

    Raises DamagedInput if a slice is missing, or the slices are uneven: if one lies off the grid by more than UNEVEN of
    the spacing and half of the last decimal of the positions, or if a few distances differ from all others. Rounding
    makes many of them differ.
    """
    if len(slices) == 1:
        if slices[0].thickness <= 0:
            raise DamagedInput(f"{slices[0].location} is the only slice and has no SliceThickness: no spacing")
        return slices[0].thickness, 0.0, ["one slice: its SliceThickness is taken for the spacing"]
    places, unit = positions_of(slices), written_unit(slices)
    steps = np.arange(len(places)) - (len(places) - 1) / 2
    spacing = float(steps @ places / (steps @ steps))
    misses = places - places.mean() - spacing * steps
    largest = float(abs(misses).max())
    few = bool(0 < odd(places).sum() <= max(1, UNEVEN * (len(places) - 1)))
    if few or largest > UNEVEN * spacing + unit / 2:
        raise DamagedInput(what_is_uneven(places, spacing, largest, 0.0 if few else unit))
    rounded = f"positions are rounded, by up to {largest:.2g} mm: the spacing is that of the even grid that fits them"
    return round(spacing, DIGITS), round(-float(misses[0]), DIGITS), [rounded] if largest > UNEVEN**2 * spacing else []


def written_unit(slices: Sequence[Slice]) -> float:
    """What one unit of the last decimal of the positions is along the normal, mm."""
    return float(np.min([item.unit for item in slices], axis=0) @ abs(slices[0].normal))


def odd(places: Float[np.ndarray, "slices"], unit: float = 0.0) -> Bool[np.ndarray, "distances"]:
    """Which distances differ from the median one by more than UNEVEN of it, and by more than `unit`, mm, besides."""
    distances = np.diff(places)
    usual = np.median(distances)
    return abs(distances - usual) > UNEVEN * usual + unit


def what_is_uneven(places: Float[np.ndarray, "slices"], spacing: float, largest: float, unit: float) -> str:
    """What is wrong with positions that are up to `largest` mm off an even grid of `spacing` mm.

    Args:
      unit: what rounding may change a distance by, mm; 0 if rounding is not the reason.
    """
    distances, off = np.diff(places), odd(places, unit)
    usual = float(np.median(distances))
    shown = some([f"{places[i]:g} and {places[i + 1]:g} mm" for i in np.flatnonzero(off)])
    if not shown:
        return f"the slices are not evenly spaced: up to {largest:.2g} mm off an even grid of {spacing:.4g} mm"
    multiples = np.rint(distances[off] / usual)
    whole = (abs(distances[off] - multiples * usual) <= UNEVEN * usual * multiples + unit).all()
    if whole and (distances[off] > GAP * usual).all() and unit <= COARSE * usual:
        missing = int((multiples - 1).sum())
        return f"{missing} slices are missing: {usual:g} mm apart but for the gaps between {shown}"
    return f"the slices are not evenly spaced: {usual:g} mm apart but between {shown}"


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
