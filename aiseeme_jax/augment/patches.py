"""Patches of a grid, for the tasks that ask where a patch lies (relative location, jigsaw)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Shaped


def patches(
    key: PRNGKeyArray,
    images: Shaped[Array, "b h w c"],
    *,
    grid: int = 3,
    size: int,
    jitter: int,
    normalise: bool = False,
) -> Shaped[Array, "b n size size c"]:
    """Cuts one patch out of every cell of a grid, row by row, n = grid x grid.

    Args:
      images: float or uint8; the patches have the same type unless normalised.
      size: side of a patch in pixels, smaller than a cell by the jitter or more.
      jitter: a patch is moved by 0 to `jitter` pixels, down and right, each patch by its own amount.
        Neighbouring patches then do not touch, and a line that runs through both does not tell how they lie
        (Doersch et al. 2015, section 3).
      normalise: gives every channel of every patch mean 0 and deviation 1 (float32). Without it the task can
        be solved from the slow change of colour across an image, such as chromatic aberration and vignetting.

    Raises:
      ValueError: patch and jitter do not fit into a cell.

    As with views, the patches of image i depend on the key and on i only.
    """
    batch, height, width, channels = images.shape
    cell = min(height, width) // grid
    if size < 1 or jitter < 0 or size + jitter > cell:
        raise ValueError(
            f"a patch of {size} px moved by up to {jitter} px does not fit a cell of {cell} px "
            f"({grid} x {grid} cells of a {height} x {width} image): need size >= 1, jitter >= 0, size + jitter <= cell"
        )
    # Cells are centred, so the pixels a division leaves over are shared by both borders.
    corner = jnp.array([(height - grid * cell) // 2, (width - grid * cell) // 2])
    cells = (
        jnp.stack(jnp.meshgrid(jnp.arange(grid), jnp.arange(grid), indexing="ij"), axis=-1).reshape(-1, 2)
        * cell
    )

    def cut(image_key: PRNGKeyArray, image: Shaped[Array, "h w c"]) -> Shaped[Array, "n size size c"]:
        starts = corner + cells + jax.random.randint(image_key, cells.shape, 0, jitter + 1)
        # The gap that a larger cell leaves on both sides of a patch and its jitter is shared as well.
        starts = starts + (cell - size - jitter) // 2
        return jax.vmap(lambda s: jax.lax.dynamic_slice(image, (s[0], s[1], 0), (size, size, channels)))(
            starts
        )

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    result = jax.vmap(cut)(keys, images)
    return _standardise(result) if normalise else result


def _standardise(patch: Shaped[Array, "... h w c"]) -> Shaped[Array, "... h w c"]:
    """Each channel of each patch on its own. The floor, one grey level of 255, keeps an even patch from
    becoming noise.
    """
    patch = patch.astype(jnp.float32)
    centred = patch - jnp.mean(patch, axis=(-3, -2), keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centred**2, axis=(-3, -2), keepdims=True))
    return centred / jnp.maximum(deviation, 1 / 255)
