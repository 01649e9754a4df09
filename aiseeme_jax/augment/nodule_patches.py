"""Patches of a nodule in several planes, as MV-KBC has them: its appearance, its texture and its shape.

OA is the square about the nodule. HVV is OA with everything outside of the nodule emptied, HS with the nodule emptied.
All patches of a nodule have one view: the same crop, flips, turns and change of grey values.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from aiseeme_jax.augment import geometry
from aiseeme_jax.augment.views import Views, central_view, from_display, random_view_with_mask, stored_to_display

KINDS = ("OA", "HVV", "HS")
# Smallest side of a square, in pixels of the plane: a plane may pass by a nodule.
LEAST_SIDE = 4.0

Planes = Shaped[Array, "b p h w c"]
Masks = Shaped[Array, "b p h w 1"]


@partial(jax.jit, static_argnames=("size", "margin"))
def cut_squares(planes: Planes, masks: Masks, *, size: int, margin: float) -> tuple[Planes, Masks]:
    """The square about the nodule in each plane, resampled to `size` pixels; beyond the border the plane is reflected.

    Where a plane has no pixel of the nodule, it is the square about the nodule's pixels of all planes together, and
    the whole plane for a nodule without pixels.

    Args:
      planes: as they are stored.
      masks: 1 inside of the nodule.
      margin: what is added on each side, as a share of the longer side of the nodule's bounding box.

    Returns planes of the type of `planes`, and masks by the nearest pixel.
    """

    def cut(plane, mask, inside):
        box = _square_about(jnp.where(jnp.any(mask == 1), mask[..., 0] == 1, inside), margin)
        square = geometry.crop_resize(plane.astype(jnp.float32), box, size)
        return jnp.round(square).astype(plane.dtype), geometry.crop_nearest(mask, box, size)

    together = jnp.any(masks[..., 0] == 1, axis=1)
    return jax.vmap(jax.vmap(cut, in_axes=(0, 0, None)))(planes, masks, together)


def _square_about(inside: Bool[Array, "h w"], margin: float) -> geometry.Box:
    (top, height), (left, width) = (_reach(jnp.any(inside, axis=axis)) for axis in (1, 0))
    side = jnp.maximum(jnp.maximum(height, width) * (1 + 2 * margin), LEAST_SIDE)
    box = geometry.Box(top + (height - side) / 2, left + (width - side) / 2, side, side)
    whole = geometry.Box(0.0, 0.0, float(inside.shape[0]), float(inside.shape[1]))
    return jax.tree.map(lambda about, all_of_it: jnp.where(jnp.any(inside), about, all_of_it), box, whole)


def _reach(any_inside: Bool[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Where the true entries begin, and how far they reach."""
    first, last = jnp.argmax(any_inside), any_inside.shape[0] - jnp.argmax(any_inside[::-1])
    return first.astype(jnp.float32), (last - first).astype(jnp.float32)


@partial(jax.jit, static_argnames=("views", "kinds"))
def random_patches(
    key: PRNGKeyArray, planes: Planes, masks: Masks, views: Views, kinds: Sequence[str]
) -> Float[Array, "b p k s s c"]:
    """A view of each nodule: its planes all have the same transformation.

    Args:
      planes, masks: as of `cut_squares`.
      kinds: of KINDS.
    """
    draw = partial(random_view_with_mask, views=views)
    shown, inside = jax.vmap(draw, in_axes=(None, 1, 1), out_axes=1)(key, planes, masks)
    return make_kinds(shown, inside, views, kinds)


@partial(jax.jit, static_argnames=("views", "kinds"))
def central_patches(planes: Planes, masks: Masks, views: Views, kinds: Sequence[str]) -> Float[Array, "b p k s s c"]:
    """The patches for evaluation. Planes and masks must have the size of the views.

    Raises ValueError if they have another one.
    """
    if planes.shape[2:4] != (views.size, views.size):
        raise ValueError(f"planes are {planes.shape[2:4]}, and views {views.size}: cut the squares in that size")
    shown = jax.vmap(partial(central_view, views=views), in_axes=1, out_axes=1)(planes)
    return make_kinds(shown, masks, views, kinds)


def make_kinds(
    shown: Float[Array, "... s s c"], masks: Shaped[Array, "... s s 1"], views: Views, kinds: Sequence[str]
) -> Float[Array, "... k s s c"]:
    """The kinds of patches of normalised planes.

    What is emptied has the value that a stored 0 has, which is grey in HU. Above that value HVV + HS = OA exactly.
    """
    empty = empty_value(views, shown.shape[-1])
    inside = masks == 1
    made = {"OA": shown, "HVV": jnp.where(inside, shown, empty), "HS": jnp.where(inside, empty, shown)}
    return jnp.stack([made[kind] for kind in kinds], axis=-4)


def empty_value(views: Views, channels: int) -> Float[Array, " c"]:
    """What a stored 0 becomes: 0 HU, or black."""
    return from_display(stored_to_display(jnp.zeros((channels,)), views), views)
