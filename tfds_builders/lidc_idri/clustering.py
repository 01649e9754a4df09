"""Which annotations are of one nodule: LIDC-IDRI does not say, and its readers' numbers do not tell.

The rule is pylidc's (`Scan.cluster_annotations`), which the published 2,651 nodules come from: two annotations belong
together if their outlines come within a tolerance of each other; groups are the connected components. A group of more
than four, which is more than there were readers, shows that the tolerance is too large for the series: it shrinks by a
tenth until there is none, or until it is below 0.1 mm.

One deviation: the tolerance begins at the distance between slices, not at the header's SliceThickness, which the XML
files do not have either and which differs from that distance where slices overlap.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from .annotations import Annotation

READERS = 4
SHRINK, SMALLEST = 0.9, 0.1


@dataclasses.dataclass(frozen=True)
class Groups:
    """Attributes: positions of the annotations of each nodule; the tolerance in the end, mm; whether a group of more
    than four remained.
    """

    members: list[list[int]]
    tolerance: float
    crowded: bool


def group(annotations: Sequence[Annotation], spacing: Sequence[float]) -> Groups:
    """The nodules of one series, in the order of the least corner (z, y, x) of their boxes.

    Args:
      annotations: of one series.
      spacing: of the series, mm (z, y, x); z is where the tolerance begins.
    """
    if not annotations:
        return Groups([], spacing[0], False)
    points = [outline_points(annotation, spacing) for annotation in annotations]
    distances = least_distances(points, spacing[0])
    tolerance = spacing[0]
    while True:
        _, labels = connected_components(distances <= tolerance, directed=False)
        crowded = np.bincount(labels).max() > READERS
        if not crowded or tolerance < SMALLEST:
            break
        tolerance *= SHRINK
    members = [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]
    first = [min(tuple(points[i].min(0)) for i in several) for several in members]
    order = sorted(range(len(members)), key=lambda i: first[i])
    return Groups([members[i] for i in order], float(tolerance), bool(crowded))


def outline_points(annotation: Annotation, spacing: Sequence[float]) -> Float[np.ndarray, "points 3"]:
    """All outlines' points, mm (z, y, x), holes included; in plane from the first pixel."""
    return np.concatenate(
        [
            np.column_stack([np.full(len(one.points), one.z), one.points[:, ::-1] * np.asarray(spacing[1:])])
            for one in annotation.outlines
        ]
    )


def least_distances(
    points: Sequence[Float[np.ndarray, "_ 3"]], farthest: float
) -> Float[np.ndarray, "annotations annotations"]:
    """Least distance between the points of two annotations, mm; infinite where it exceeds `farthest`."""
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
