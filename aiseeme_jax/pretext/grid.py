"""Patches of a grid, for tasks that ask where a patch comes from: relative location, jigsaw, Rubik's cube.

Only the content of a patch may give the answer. As in Doersch et al. (ICCV 2015), gaps and jitter between the patches
interrupt edges that continue, and each patch is normalised by itself and often grey, against chromatic aberration.
"""

from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment
from aiseeme_jax.errors import UserError
from aiseeme_jax.task import Task

SIDE = 3
RECIPE = {"crop_scale": (0.7, 1.0), "flip_horizontal": 0.5, "grey_probability": 0.66}


def patch_size(task: Task, asked: int, backbone: nnx.Module, spec: augment.AnyViews, *, side: int = SIDE) -> int:
    """Size of a patch in pixels: three quarters of a grid cell (64 of 85 at 255 px, as published), unless asked for.

    For a ViT down to a multiple of its own patches, of at least one. `side` is that of the grid, in cells.

    Raises UserError if a patch does not fit its cell, or does not consist of whole patches of the ViT.
    """
    cell = spec.size // side
    multiple = getattr(backbone, "patch", 1)
    size = asked or max(cell * 3 // 4 // multiple, 1) * multiple
    if size % multiple:
        raise UserError(
            f"{task.NAME}: a patch of {size} px is no multiple of the {multiple} px of the backbone's (model.patch); "
            "change `patch`"
        )
    if not 0 < size <= cell:
        raise UserError(
            f"{task.NAME}: a patch of {size} px does not fit a cell of {cell} px "
            f"(views.size {spec.size} / {side}); lower `patch` or raise `views.size`"
        )
    return size


def draw(
    view_key: PRNGKeyArray,
    patch_key: PRNGKeyArray,
    images: Array,
    spec: augment.AnyViews,
    size: int,
    *,
    side: int = SIDE,
) -> Float[Array, "b n *size c"]:
    """The patches of a random view of each image, row by row."""
    views = augment.random_view(view_key, images, spec)
    # Half of the room moves the patches, the other half keeps them apart.
    jitter = (spec.size // side - size) // 2
    return augment.patches(patch_key, views, grid=side, size=size, jitter=jitter, normalise=True)
