"""Planes through the middle of a volume: three orthogonal ones, and the six that cut a cube through two opposite edges
(Setio et al., IEEE TMI 35(5), 2016).
"""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def list_planes() -> dict[str, Float[np.ndarray, "2 3"]]:
    """Unit vectors (z, y, x) along the rows' axis (downwards) and the columns' axis of each plane, by its name.

    These are names and order of the planes of `lidc_idri/views`.
    """
    axes = dict(zip("zyx", np.eye(3), strict=True))
    planes = {
        name: np.stack([axes[rows], axes[columns]])
        for name, (rows, columns) in {"axial": "yx", "coronal": "zx", "sagittal": "zy"}.items()
    }
    for one, other in itertools.combinations("zyx", 2):
        (edge,) = set("zyx") - {one, other}
        for sign, name in ((1, f"{one}+{other}"), (-1, f"{one}-{other}")):
            planes[name] = np.stack([(axes[one] + sign * axes[other]) / math.sqrt(2), axes[edge]])
    return planes


PLANES = list_planes()


@partial(jax.jit, static_argnames="nearest")
def cut_planes(volumes: Shaped[Array, "b s s s c"], *, nearest: bool = False) -> Shaped[Array, "b 9 s s c"]:
    """The nine planes of each cube, in the order of PLANES, sampled at the distance of its voxels.

    Values are interpolated between the eight voxels around a sample, and rounded if the voxels are whole numbers. No
    sample lies outside of the cube.

    Args:
      volumes: axes z, y, x.
      nearest: takes the nearest voxel instead: for masks.

    Raises ValueError for volumes that are not cubes.
    """
    if volumes.ndim != 5 or len(set(volumes.shape[1:4])) > 1:
        raise ValueError(f"planes are cut from cubes [B, S, S, S, C], not {volumes.shape}")
    side = volumes.shape[1]
    steps = np.arange(side) - (side - 1) / 2
    places = np.stack([
        steps[:, None, None] * rows + steps[None, :, None] * columns for rows, columns in PLANES.values()
    ]) + (side - 1) / 2  # fmt: skip
    if nearest:
        # Half a voxel beyond a voxel belongs to the next one; rounding to even would take some twice.
        z, y, x = np.moveaxis(np.floor(places + 0.5 + 1e-6).astype(int).clip(0, side - 1), -1, 0)
        return volumes[:, z, y, x]
    found = _interpolate(volumes.astype(jnp.float32), places)
    whole = jnp.issubdtype(volumes.dtype, jnp.integer)
    return jnp.round(found).astype(volumes.dtype) if whole else found


def _interpolate(volumes: Float[Array, "b s s s c"], places: Float[np.ndarray, "p h w 3"]) -> Float[Array, "b p h w c"]:
    side = volumes.shape[1]
    # What is the position of a voxel but for rounding is taken as it.
    places = np.where(abs(places - places.round()) < 1e-6, places.round(), places)
    low = np.floor(places).astype(int)
    share = places - low
    found = jnp.zeros((), jnp.float32)
    for corner in itertools.product((0, 1), repeat=3):
        weight = np.where(corner, share, 1 - share).prod(axis=-1)[..., None]
        z, y, x = np.moveaxis((low + corner).clip(0, side - 1), -1, 0)
        found = found + jnp.asarray(weight, jnp.float32) * volumes[:, z, y, x]
    return found
