"""Whether the values of a volume can be Hounsfield units, in which -1000 is air, 0 water and about 1000 bone.

A MetaImage file does not say what its values are, and segmentations and scaled copies lie beside the scans.
"""

import numpy as np
from jaxtyping import Int, Int16

from tfds_builders.common.slices import LOWEST_HU

# A scan has thousands of values, a segmentation a few.
FEWEST_VALUES = 10
# Every scan has values below and above these: fat and air, water and tissue.
FAT_HU, WATER_HU = -100, 1
# Lung and air lie below the first, nothing but metal above the second.
LUNG_HU, METAL_HU = -500, 3000
LARGEST = np.iinfo(np.int16).max
HALF = 0.5


def count_values(voxels: Int16[np.ndarray, "depth height width"]) -> Int[np.ndarray, "values"]:
    """How often each value from LOWEST_HU to LARGEST is there; nothing may lie below."""
    counts = np.zeros(LARGEST - LOWEST_HU + 1, np.int64)
    for plane in voxels:
        counts += np.bincount(plane.ravel().astype(np.int32) - LOWEST_HU, minlength=len(counts))
    return counts


def above(counts: Int[np.ndarray, "values"], limit: int) -> int:
    """How many voxels have more than `limit` HU."""
    return int(counts[limit - LOWEST_HU + 1 :].sum())


def no_hounsfield(voxels: Int16[np.ndarray, "depth height width"]) -> str:
    """Why the values are no Hounsfield units; '' if they can be."""
    counts = count_values(voxels)
    values = np.flatnonzero(counts) + LOWEST_HU
    shown = f"from {values[0]} to {values[-1]}"
    if len(values) < FEWEST_VALUES:
        return f"no Hounsfield units: only the values {', '.join(map(str, values))}, as of a segmentation"
    if values[0] >= FAT_HU:
        return f"no Hounsfield units: no value below {FAT_HU} ({shown}), so neither fat nor lung nor air"
    if values[-1] <= WATER_HU:
        return f"no Hounsfield units: no value above {WATER_HU} ({shown}), so no tissue"
    return ""


def doubts(voxels: Int16[np.ndarray, "depth height width"]) -> list[str]:
    """What of the values is unusual for Hounsfield units, for a report."""
    counts = count_values(voxels)
    total, found = int(counts.sum()), []
    if above(counts, LUNG_HU - 1) == total:
        found.append(f"no value below {LUNG_HU} HU: neither lung nor air is shown, or these are no Hounsfield units")
    if above(counts, METAL_HU) >= HALF * total:
        found.append(f"{above(counts, METAL_HU) / total:.0%} of the values are above {METAL_HU} HU, as only metal is")
    for limit, count in ((LOWEST_HU, counts[0]), (LARGEST, counts[-1])):
        # Around the field of view many scanners write the least value, at its top none.
        if count > (HALF * total if limit == LOWEST_HU else 0):
            found.append(f"{count} of {total} values were clipped to {limit}")
    return found
