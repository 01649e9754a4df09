"""From outlines to voxels: what a reader enclosed, and what at least half of the readers did."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from .annotations import Annotation, Outline

CONSENSUS = 0.5


@dataclasses.dataclass(frozen=True)
class Box:
    """A part of a volume. Attributes: the voxels; index (z, y, x) of the first of them in the volume."""

    voxels: Bool[np.ndarray, "depth height width"]
    corner: tuple[int, int, int]

    def reversed(self, shape: Sequence[int], axes: Sequence[bool]) -> "Box":
        """The same voxels in the volume of this shape after some of its axes were reversed."""
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in axes)
        corner = [
            length - start - size if flip else start
            for length, start, size, flip in zip(shape, self.corner, self.voxels.shape, axes, strict=True)
        ]
        return Box(self.voxels[steps], tuple(corner))

    def centroid(self) -> tuple[float, float, float]:
        """Mean index of its voxels in the volume; the middle of the box if it has none."""
        where = np.argwhere(self.voxels)
        middle = where.mean(0) if len(where) else (np.array(self.voxels.shape) - 1) / 2
        return tuple((middle + self.corner).tolist())


def interior(points: Int[np.ndarray, "points 2"]) -> tuple[Bool[np.ndarray, "height width"], tuple[int, int]]:
    """The pixels strictly inside a closed polygon of pixels, and the index (row, column) of the first of them.

    Inside is where the winding number is not 0. All is integer arithmetic, so by Pick's theorem a polygon of area A
    that does not cross itself, with B pixels on its edges, has exactly A - B/2 + 1 pixels.

    Args:
      points: (x, y), in order; the last is joined to the first.
    """
    low = points.min(0)
    start = points.astype(np.int64) - low
    step = np.roll(start, -1, axis=0) - start
    width, height = start.max(0) + 1
    turns = np.zeros((height, width + 1), np.int32)
    # Each edge is crossed by the rows from its upper end on, its lower end not included.
    edge, row = spread(abs(step[:, 1]))
    row += np.minimum(start[:, 1], start[:, 1] + step[:, 1])[edge]
    column = start[edge, 0] + (row - start[edge, 1]) * step[edge, 0] // step[edge, 1]
    np.add.at(turns, (row, column + 1), np.sign(step[edge, 1]))
    inside = np.cumsum(turns, axis=1)[:, :width] != 0
    parts = np.maximum(np.gcd(abs(step[:, 0]), abs(step[:, 1])), 1)
    edge, part = spread(parts)
    on_edge = start[edge] + part[:, None] * (step // parts[:, None])[edge]
    inside[on_edge[:, 1], on_edge[:, 0]] = False
    return inside, (int(low[1]), int(low[0]))


def spread(counts: Int[np.ndarray, "n"]) -> tuple[Int[np.ndarray, "total"], Int[np.ndarray, "total"]]:
    """For counts 2, 0, 3: 0 0 2 2 2 and 0 1 0 1 2."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)


def consensus(annotations: Sequence[Annotation], slice_of: Callable[[Outline], int], share: float = CONSENSUS) -> Box:
    """Voxels that at least the given share of the readers enclosed, in the box around all their outlines.

    What a reader enclosed in a slice is the inside of the outlines less the inside of the holes; an outline's own
    pixels belong to what is around it. Two annotations of one reader count as one.

    Args:
      annotations: of one nodule.
      slice_of: index of an outline's slice in the volume.
    """
    regions: dict[int, dict[int, list[Outline]]] = defaultdict(lambda: defaultdict(list))
    points = np.concatenate([one.points for annotation in annotations for one in annotation.outlines])
    for annotation in annotations:
        for one in annotation.outlines:
            regions[annotation.session][slice_of(one)].append(one)
    slices = {index for of_reader in regions.values() for index in of_reader}
    (x0, y0), (x1, y1) = points.min(0), points.max(0) + 1
    corner = (min(slices), int(y0), int(x0))
    votes = np.zeros((max(slices) - corner[0] + 1, y1 - y0, x1 - x0), np.int32)
    for of_reader in regions.values():
        for index, outlines in of_reader.items():
            votes[index - corner[0]] += enclosed(outlines, votes.shape[1:], corner[1:])
    return Box(votes >= share * len(regions), corner)


def enclosed(
    outlines: Iterable[Outline], shape: Sequence[int], corner: Sequence[int]
) -> Bool[np.ndarray, "height width"]:
    """What the outlines of one slice enclose, less its holes, in the frame of that shape and corner (row, column)."""
    inside, holes = np.zeros(shape, bool), np.zeros(shape, bool)
    for outline in outlines:
        pixels, (row, column) = interior(outline.points)
        target = inside if outline.inclusion else holes
        row, column = row - corner[0], column - corner[1]
        target[row : row + pixels.shape[0], column : column + pixels.shape[1]] |= pixels
    return inside & ~holes


def diameter(annotations: Sequence[Annotation], spacing: Sequence[float]) -> float:
    """Greatest distance between two points of an outline in one slice, mm, averaged over the annotations.

    An outline lies on the first pixels outside, so this is about two pixels more than the nodule measures.
    """
    return float(
        np.mean([max(extent(one.points * np.asarray(spacing[:0:-1])) for one in included(a)) for a in annotations])
    )


def included(annotation: Annotation) -> list[Outline]:
    return [one for one in annotation.outlines if one.inclusion]


def extent(points: Float[np.ndarray, "points 2"]) -> float:
    return float(np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1).max()))
