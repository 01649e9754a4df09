"""Planes through a point of a volume: three orthogonal ones, and the six that cut a cube through two opposite edges.

They are those of Setio et al. (IEEE TMI 35(5), 2016).
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num
from scipy.ndimage import map_coordinates

from tfds_builders.common.geometry import AIR, LINEAR


def planes() -> dict[str, Float[np.ndarray, "2 3"]]:
    """Unit vectors (z, y, x) along the rows' axis (downwards) and the columns' axis of each plane, by its name."""
    z, y, x = np.eye(3)
    named = {"axial": (y, x), "coronal": (z, x), "sagittal": (z, y)}
    for (one, first), (other, second) in itertools.combinations((("z", z), ("y", y), ("x", x)), 2):
        (edge,) = (axis for axis in (z, y, x) if axis is not first and axis is not second)
        named[f"{one}+{other}"] = ((first + second) / np.sqrt(2), edge)
        named[f"{one}-{other}"] = ((first - second) / np.sqrt(2), edge)
    return {name: np.stack(axes) for name, axes in named.items()}


PLANES = planes()


def sample_plane(
    voxels: Num[np.ndarray, "depth height width"],
    spacing: Sequence[float],
    centre: Sequence[float],
    axes: Float[np.ndarray, "2 3"],
    size: int,
    spacing_out: float,
    order: int = LINEAR,
) -> Num[np.ndarray, "size size"]:
    """A square of a plane about a point; samples lie as in `geometry.patch`.

    Args:
      voxels, spacing: the volume, mm (z, y, x).
      centre: voxel coordinates (z, y, x).
      axes: see `planes`.
      size: samples along each side.
      spacing_out: mm between them.
      order: LINEAR for images, with AIR beyond the volume; NEAREST for masks, with 0.
    """
    offsets = (np.arange(size) - (size - 1) / 2) * spacing_out
    across = offsets[:, None, None] * axes[0] + offsets[None, :, None] * axes[1]
    places = np.moveaxis(np.asarray(centre) + across / np.asarray(spacing), -1, 0)
    limits = np.array(voxels.shape)[:, None, None] - 0.5
    beyond = ((places < -0.5) | (places > limits)).any(0)
    kind = np.float32 if order == LINEAR else voxels.dtype
    values = map_coordinates(voxels, places, output=kind, order=order, mode="nearest")
    values = np.rint(values).astype(voxels.dtype)
    values[beyond] = AIR if order == LINEAR else 0
    return values
