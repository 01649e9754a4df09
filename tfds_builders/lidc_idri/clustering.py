"""Which annotations are of one nodule: LIDC-IDRI does not say, and its readers' numbers do not tell.

The rule is that of pylidc (`Scan.cluster_annotations`): two annotations belong together if their outlines come within a
tolerance of each other; groups are the connected components. A group of more than four, which is more than there were
readers, shows that the tolerance is too large for the series: it shrinks by a tenth until there is none, but not below
0.1.

There are two ways to measure, and a series may have other nodules by the one than by the other:

MM: distances are in mm, and the tolerance begins at the distance between slices.
PYLIDC: as pylidc 0.2.3. Distances are between indices of voxels, so one column, one row and one slice are 1 each. The
  tolerance begins at the number of mm that SliceThickness says, and is compared with those distances.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from tfds_builders.common.damage import DamagedInput

from .annotations import Annotation

MM, PYLIDC = "mm", "pylidc"
READERS = 4
SHRINK, SMALLEST = 0.9, 0.1
ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Groups:
    """Attributes: positions of the annotations of each nodule; the tolerance at first and in the end, mm or voxels;
    whether a group of more than four remained.
    """

    members: list[list[int]]
    first: float
    tolerance: float
    crowded: bool


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the voxels of a series lie, as far as grouping wants to know.

    Attributes:
      spacing: mm (z, y, x).
      lowest: z of its lowest slice in the patient's frame, mm.
      thickness: SliceThickness, mm; 0 where it is not known.
    """

    spacing: tuple[float, float, float]
    lowest: float
    thickness: float = 0.0

    def indices(self, annotation: Annotation) -> Float[np.ndarray, "points 3"]:
        """All outlines' points as indices (z, y, x) of voxels, holes included; z counts from the lowest slice."""
        levels = [np.rint((one.z - self.lowest) / self.spacing[0]) for one in annotation.outlines]
        return np.concatenate(
            [
                np.column_stack([np.full(len(one.points), level), one.points[:, ::-1]])
                for one, level in zip(annotation.outlines, levels, strict=True)
            ]
        )


def group(annotations: Sequence[Annotation], grid: Grid, clustering: str = MM) -> Groups:
    """The nodules of one series, in the order of the least corner (z, y, x) of their boxes.

    Args:
      annotations: of one series.
      grid: of the series.
      clustering: MM or PYLIDC, how distances are measured.

    Raises DamagedInput for PYLIDC if SliceThickness is not known.
    """
    points = [grid.indices(annotation) for annotation in annotations]
    if clustering == MM:
        return connect([one * grid.spacing for one in points], grid.spacing[0])
    if grid.thickness <= 0:
        raise DamagedInput("no SliceThickness, at which pylidc's grouping begins: use the config without _pylidc")
    return connect(points, grid.thickness)


def connect(points: Sequence[Float[np.ndarray, "_ 3"]], first: float) -> Groups:
    """Groups of sets of points (z, y, x) that come within a tolerance of each other, which begins at `first`."""
    if not points:
        return Groups([], first, first, False)
    # Neighbouring slices are one spacing apart, but for the last bit of a product.
    distances = least_distances(points, first * (1 + ROUNDING)) / (1 + ROUNDING)
    tolerance = first
    while True:
        _, labels = connected_components(distances <= tolerance, directed=False)
        crowded = np.bincount(labels).max() > READERS
        if not crowded or tolerance * SHRINK < SMALLEST:
            break
        tolerance *= SHRINK
    members = [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]
    corners = [min(tuple(points[i].min(0)) for i in several) for several in members]
    order = sorted(range(len(members)), key=lambda i: corners[i])
    return Groups([members[i] for i in order], first, float(tolerance), bool(crowded))


def least_distances(
    points: Sequence[Float[np.ndarray, "_ 3"]], farthest: float
) -> Float[np.ndarray, "annotations annotations"]:
    """Least distance between the points of two annotations; infinite where it exceeds `farthest`."""
    distances = np.full((len(points),) * 2, np.inf)
    np.fill_diagonal(distances, 0)
    trees = [cKDTree(one) for one in points]
    for i, one in enumerate(trees):
        for j, other in enumerate(trees[:i]):
            # Of the boxes around them: a bound that spares most searches.
            gap = np.maximum(one.mins - other.maxes, other.mins - one.maxes).clip(min=0)
            if np.linalg.norm(gap) <= farthest:
                nearest, _ = one.query(points[j], distance_upper_bound=np.nextafter(farthest, np.inf))
                distances[i, j] = distances[j, i] = nearest.min()
    return distances
