"""Nine planes through a nodule, and the patches of MV-KBC (Xie et al., IEEE TMI 38(4), 2019).

The planes are those of Setio et al. (IEEE TMI 35(5), 2016): three orthogonal ones, and the six that cut a cube through
two opposite edges. Each is sampled from the CT volume itself, so that the diagonal ones are as fine as the others.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int16, Num

from tfds_builders.common.geometry import NEAREST
from tfds_builders.common.planes import PLANES, sample_plane

from .masks import Box

PATCHES = ("OA", "HVV", "HS")
# Smallest side of a patch, mm: a plane may pass by the voxels of a nodule that is not convex.
LEAST_SIDE = 3.0
# Spacing at which a nodule's extent in a plane is measured, mm.
FINE = 0.5


def nine_views(
    voxels: Int16[np.ndarray, "depth height width"],
    box: Box,
    spacing: Sequence[float],
    centre: Sequence[float],
    size: int,
    spacing_out: float,
) -> tuple[Int16[np.ndarray, "9 size size 1"], Num[np.ndarray, "9 size size 1"]]:
    """HU and mask (0 or 1) in the nine planes, in the order of PLANES."""
    images = [sample_plane(voxels, spacing, centre, axes, size, spacing_out) for axes in PLANES.values()]
    masks = [mask_plane(box, spacing, centre, axes, size, spacing_out) for axes in PLANES.values()]
    return np.stack(images)[..., None], np.stack(masks)[..., None]


def nodule_patches(
    voxels: Int16[np.ndarray, "depth height width"],
    box: Box,
    spacing: Sequence[float],
    centre: Sequence[float],
    size: int,
) -> tuple[Int16[np.ndarray, "9 size size 3"], Num[np.ndarray, "9 size size 1"], Float[np.ndarray, "9"]]:
    """The patches of PATCHES in the nine planes, their masks, and the sides of the squares they show, mm.

    OA is the square about the nodule in that plane, in HU; HVV is OA with what is outside of the nodule set to 0, HS
    with what is inside set to 0: HVV + HS = OA. The published code cuts bounding boxes of any shape and resizes them;
    here the box is made square, so that nothing is squeezed, and sampled at the final size at once. It also stretches
    each patch to 0 to 255: that is left to who trains.
    """
    patches, masks, sides = [], [], []
    for axes in PLANES.values():
        middle, side = square_about(box, spacing, centre, axes)
        image = sample_plane(voxels, spacing, middle, axes, size, side / size)
        mask = mask_plane(box, spacing, middle, axes, size, side / size)
        patches.append(np.stack([image, image * mask, image * (1 - mask)], axis=-1).astype(np.int16))
        masks.append(mask)
        sides.append(side)
    return np.stack(patches), np.stack(masks)[..., None], np.array(sides, np.float32)


def mask_plane(box: Box, spacing: Sequence[float], centre: Sequence[float], axes, size: int, spacing_out: float):
    local = np.asarray(centre) - box.corner
    return sample_plane(box.voxels.astype(np.uint8), spacing, local, axes, size, spacing_out, NEAREST)


def square_about(
    box: Box, spacing: Sequence[float], centre: Sequence[float], axes: Float[np.ndarray, "2 3"]
) -> tuple[Float[np.ndarray, "3"], float]:
    """Middle (voxel coordinates) and side (mm) of the smallest square about the nodule's pixels in a plane."""
    reach = np.linalg.norm((np.array(box.voxels.shape) + 1) * spacing)
    size = 2 * int(np.ceil(reach / FINE)) + 1
    where = np.argwhere(mask_plane(box, spacing, centre, axes, size, FINE))
    if not len(where):
        return np.asarray(centre, float), LEAST_SIDE
    low, high = where.min(0), where.max(0)
    shift = ((low + high) / 2 - (size - 1) / 2) * FINE
    side = max(float((high - low + 1).max()) * FINE, LEAST_SIDE)
    return np.asarray(centre) + shift @ axes / np.asarray(spacing), side
