"""Voxels and millimetres: where a voxel lies, and cubes of equal spacing cut out of a volume.

Volumes are indexed (z, y, x). Points of the world are (x, y, z) mm in the patient's frame, as DICOM and MetaImage
write them: x to the left, y to the back, z to the head. A row of `direction` is the unit vector of the world along one
axis of the volume, in the order z, y, x; the origin is the centre of voxel (0, 0, 0).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num

AIR = -1000
LINEAR, NEAREST = 1, 0
# Axes of the volume along those of the world.
ALIGNED = np.eye(3)[::-1]


def to_world(
    voxels: Num[np.ndarray, "*points 3"],
    origin: Sequence[float],
    spacing: Sequence[float],
    direction: Float[np.ndarray, "3 3"] = ALIGNED,
) -> Float[np.ndarray, "*points 3"]:
    """Points of the world (x, y, z) mm of voxel coordinates (z, y, x), which need not be whole."""
    return np.asarray(origin, float) + (np.asarray(voxels, float) * np.asarray(spacing, float)) @ direction


def to_voxel(
    points: Num[np.ndarray, "*points 3"],
    origin: Sequence[float],
    spacing: Sequence[float],
    direction: Float[np.ndarray, "3 3"] = ALIGNED,
) -> Float[np.ndarray, "*points 3"]:
    """Voxel coordinates (z, y, x), not rounded, of points of the world (x, y, z) mm. Undoes `to_world`."""
    return (np.asarray(points, float) - np.asarray(origin, float)) @ np.asarray(direction).T / np.asarray(spacing)


def patch(
    voxels: Num[np.ndarray, "depth height width"],
    spacing: Sequence[float],
    centre_voxel: Sequence[float],
    size: int = 64,
    spacing_out: float = 1.0,
    order: int = LINEAR,
    outside: int | None = None,
) -> Num[np.ndarray, "size size size"]:
    """A cube of equal spacing about a point, along the axes of the volume.

    Sample i of an axis lies (i - (size - 1) / 2) * spacing_out mm from the centre: the centre is the middle of the
    cube, between two samples if `size` is even. A voxel reaches half its spacing beyond its centre; samples beyond the
    last voxel's reach are `outside`. Only the voxels that the cube needs are touched. Where `spacing_out` is larger
    than the spacing, voxels are sampled, not averaged.

    Args:
      voxels: the volume, of integers.
      spacing: of the volume, mm (z, y, x).
      centre_voxel: voxel coordinates (z, y, x), not necessarily whole, may lie outside.
      size: samples along each side.
      spacing_out: mm between them.
      order: LINEAR (1) for images, NEAREST (0) for masks.
      outside: value beyond the volume; by default AIR for LINEAR, 0 for NEAREST.

    Returns the samples in the volume's own type, rounded.

    Raises ValueError for another order, or a spacing or size that is not positive.
    """
    if order not in (LINEAR, NEAREST):
        raise ValueError(f"order is 1 (linear) or 0 (nearest), not {order}")
    if min(spacing) <= 0 or spacing_out <= 0 or size < 1:
        raise ValueError(f"spacings and size must be positive: {tuple(spacing)}, {spacing_out}, {size}")
    outside = (AIR if order == LINEAR else 0) if outside is None else outside
    offsets = (np.arange(size) - (size - 1) / 2) * spacing_out
    places = [centre + offsets / step for centre, step in zip(centre_voxel, spacing, strict=True)]
    inside = [(at >= -0.5) & (at <= n - 0.5) for at, n in zip(places, voxels.shape, strict=True)]
    cube = np.full((size,) * 3, outside, voxels.dtype)
    if not all(axis.any() for axis in inside):
        return cube
    reached = [np.clip(at[axis], 0, n - 1) for at, axis, n in zip(places, inside, voxels.shape, strict=True)]
    cube[np.ix_(*inside)] = sample(voxels, reached, order)
    return cube


def sample(
    voxels: Num[np.ndarray, "depth height width"], places: Sequence[Float[np.ndarray, "_"]], order: int
) -> Num[np.ndarray, "d h w"]:
    """Values at the grid of the given coordinates, which lie inside; axis after axis, since linear interpolation on
    a grid is a product of one per axis.
    """
    if order == NEAREST:
        nearest = [np.floor(at + 0.5).astype(int) for at in places]
        return voxels[np.ix_(*(np.minimum(at, n - 1) for at, n in zip(nearest, voxels.shape, strict=True)))]
    lows = [int(np.floor(at.min())) for at in places]
    highs = [int(np.ceil(at.max())) + 1 for at in places]
    values = voxels[tuple(slice(low, high) for low, high in zip(lows, highs, strict=True))].astype(np.float32)
    for axis, (at, low) in enumerate(zip(places, lows, strict=True)):
        below = np.minimum(np.floor(at).astype(int) - low, values.shape[axis] - 1)
        above = np.minimum(below + 1, values.shape[axis] - 1)
        share = (at - low - below).astype(np.float32).reshape([-1 if other == axis else 1 for other in range(3)])
        values = values.take(below, axis) * (1 - share) + values.take(above, axis) * share
    return np.rint(values).astype(voxels.dtype)
