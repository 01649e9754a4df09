"""Patches of a grid, for the tasks that ask where a patch lies (relative location, jigsaw)."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, Shaped


def patches(
    key: PRNGKeyArray,
    images: Shaped[Array, "b *space c"],
    *,
    grid: int = 3,
    size: int,
    jitter: int,
    normalise: bool = False,
) -> Shaped[Array, "b n *size c"]:
    """Cuts one patch out of each cell of a grid, row by row (and plane by plane): n = grid x grid (x grid).

    Args:
      images: [B, H, W, C] or volumes [B, D, H, W, C], float or integer. The patches are squares or cubes of the same
        type, unless they are normalised.
      size: side of a patch in pixels. size + jitter must not be larger than a cell.
      jitter: each patch is moved by its own 0 to `jitter` pixels, down and right. Neighbouring patches then do
        not touch, and a line that runs through both does not show how they lie
        (Doersch et al. 2015, section 3).
      normalise: gives each channel of each patch mean 0 and deviation 1 (float32). Without it the task can be solved
        from slow changes of colour across an image, such as chromatic aberration and vignetting.

    Raises:
      ValueError: patch and jitter do not fit into a cell.

    The patches of image i depend on the key and on i only, as with views.
    """
    batch, *space, channels = images.shape
    cell = min(space) // grid
    if size < 1 or jitter < 0 or size + jitter > cell:
        raise ValueError(
            f"a patch of {size} px moved by up to {jitter} px does not fit a cell of {cell} px "
            f"({_product(grid for _ in space)} cells of {_product(space)} px): "
            "need size >= 1, jitter >= 0 and size + jitter <= cell"
        )
    # The pixels that remain after the divisions, of the image and of each cell, are split between both sides.
    corner = (jnp.array(space) - grid * cell) // 2 + (cell - size - jitter) // 2
    cells = corner + cell * jnp.argwhere(jnp.ones((grid,) * len(space), bool), size=grid ** len(space))

    def cut_one(image: Shaped[Array, "*space c"], start: Int[Array, "d"]) -> Shaped[Array, "*size c"]:
        return jax.lax.dynamic_slice(image, (*start, 0), (*[size] * len(space), channels))

    def cut(image_key: PRNGKeyArray, image: Shaped[Array, "*space c"]) -> Shaped[Array, "n *size c"]:
        starts = cells + jax.random.randint(image_key, cells.shape, 0, jitter + 1)
        return jax.vmap(cut_one, (None, 0))(image, starts)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    result = jax.vmap(cut)(keys, images)
    return _standardise(result) if normalise else result


def _product(sides: Iterable[int]) -> str:
    return " x ".join(map(str, sides))


def _standardise(patches: Shaped[Array, "b n *size c"]) -> Shaped[Array, "b n *size c"]:
    """Gives each channel of each patch mean 0 and deviation 1."""
    patches, space = patches.astype(jnp.float32), tuple(range(2, patches.ndim - 1))
    centred = patches - jnp.mean(patches, axis=space, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centred**2, axis=space, keepdims=True))
    # The floor, one grey level of 255, keeps a uniform patch from becoming noise.
    return centred / jnp.maximum(deviation, 1 / 255)
