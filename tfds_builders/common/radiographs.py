"""What the builders of chest radiographs share: findings, boxes, ages."""

import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Shaped

from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.records import SHOWN

UNKNOWN = "unknown"
SEXES = {"F": "female", "FEMALE": "female", "M": "male", "MALE": "male"}
# Nobody is known to have grown older than 122.
OLDEST = 122.0
DAYS_OF_YEAR = 365.25
YEARS_PER_UNIT = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / DAYS_OF_YEAR, "D": 1 / DAYS_OF_YEAR}


def sex_of(value: str) -> str:
    """female, male or unknown."""
    return SEXES.get(value.upper(), UNKNOWN)


def age_of(value: str) -> float:
    """Years, of '58', '058Y', '11M', '3D'; NaN for a blank, and for an age that nobody has.

    Raises DamagedInput if it is no age.
    """
    if not value:
        return math.nan
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([YMWD]?)", value.upper())
    if found is None:
        raise DamagedInput(f"the age is {value!r}: a number of years or blank is wanted")
    years = float(found[1]) * YEARS_PER_UNIT[found[2]]
    return years if years <= OLDEST else math.nan


def labels_feature(names: Sequence[str]) -> tfds.features.Tensor:
    return tfds.features.Tensor(
        shape=(len(names),), dtype=np.float32, doc=f"1, 0, or NaN: not known; of {', '.join(names)}"
    )


# A hundred thousand images share a few thousand combinations.
@cache
def label_array(values: tuple[float, ...], dtype: type[np.generic] = np.float32) -> Shaped[np.ndarray, " labels"]:
    return np.array(values, dtype)


def boxes_feature(**more: Any) -> tfds.features.Sequence:
    """Boxes in relative coordinates, which survive that the image is squeezed to a square."""
    return tfds.features.Sequence({"box": tfds.features.BBoxFeature(doc="ymin, xmin, ymax, xmax; 0 to 1"), **more})


def relative_box(x: str, y: str, width: str, height: str, side: int) -> tfds.features.BBox:
    """The box with its upper left corner at (x, y), all given in pixels of an image of side x side, cut to the image.

    Raises DamagedInput for a value that is no number, and for a box without area in the image.
    """
    try:
        left, top, across, down = (float(value) for value in (x, y, width, height))
    except ValueError:
        left = top = across = down = math.nan
    edges = (top, left, top + down, left + across)
    ymin, xmin, ymax, xmax = (min(max(edge / side, 0.0), 1.0) for edge in edges)
    if not all(map(math.isfinite, edges)) or ymin >= ymax or xmin >= xmax:
        raise DamagedInput(
            f"the box x {x!r}, y {y!r}, width {width!r}, height {height!r} has no area in {side}x{side} pixels"
        )
    return tfds.features.BBox(ymin=ymin, xmin=xmin, ymax=ymax, xmax=xmax)


def images_absent(absent: Sequence[str], total: int, folder: Path, advice: str) -> FileNotFoundError:
    """The error for images that are in none of several archives."""
    shown = ", ".join(absent[:SHOWN]) + (" …" if len(absent) > SHOWN else "")
    return FileNotFoundError(
        f"{len(absent)} of {total} images of the tables are in no archive of {folder}: {shown}. {advice}"
    )
