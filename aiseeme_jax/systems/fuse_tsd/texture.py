"""Texture of a region: statistics of its grey-level co-occurrence matrices (Haralick et al., 1973, IEEE SMC 3(6)).

scikit-image is imported where it is used.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

# 0, 45, 90 and 135 degrees: with symmetric counts these are all directions.
ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
# As scikit-image names and defines them: 'ASM' is the sum of p², also called energy; 'homogeneity' the sum of
# p / (1 + (i - j)²); 'correlation' is 1 where there is one level; 'entropy' has the natural logarithm.
STATISTICS = ("contrast", "dissimilarity", "homogeneity", "ASM", "correlation", "entropy")


def count_pairs(
    grey: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], *, levels: int, distances: Sequence[int]
) -> Float[np.ndarray, "levels levels distances angles"]:
    """How often two levels are at a distance from each other in a direction, of pixels that both lie in the mask.

    Args:
      grey: values in [0, 1], cut into `levels` equal steps.
      mask: of the region.
      distances: in pixels, along a diagonal too: the step there is rounded to whole rows and columns.
    """
    from skimage.feature import graycomatrix

    steps = np.clip((grey * levels).astype(int), 0, levels - 1)
    # Level 0 is what lies outside. Pairs with it are taken out again.
    marked = np.where(mask, steps + 1, 0).astype(np.uint16)
    pairs = graycomatrix(marked, distances, ANGLES, levels=levels + 1, symmetric=True)
    return pairs[1:, 1:].astype(np.float64)


def describe_texture(
    grey: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], *, levels: int, distances: Sequence[int]
) -> Float[np.ndarray, " f"]:
    """The mean of each statistic over the directions, which does not change with right angles, and its range over them.

    Args: as of `count_pairs`.

    Returns for each distance the means of STATISTICS, then their ranges. A distance at which the region has no two
    pixels has zeros.
    """
    from skimage.feature import graycoprops

    pairs = count_pairs(grey, mask, levels=levels, distances=distances)
    there = pairs.sum(axis=(0, 1)) > 0
    found = np.stack([np.where(there, graycoprops(pairs, name), np.nan) for name in STATISTICS])
    rows = []
    for of_distance in np.moveaxis(found, 1, 0):
        # A thin region has pairs in some directions alone.
        known = of_distance[:, ~np.isnan(of_distance[0])]
        if known.shape[1]:
            rows += [known.mean(axis=1), np.ptp(known, axis=1)]
        else:
            rows += [np.zeros(len(STATISTICS))] * 2
    return np.concatenate(rows)
