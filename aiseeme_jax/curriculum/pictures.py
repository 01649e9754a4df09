"""Sample views of a task, as the backbone sees them: the first thing to look at when a loss does not fall."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from aiseeme_jax import augment, seeds
from aiseeme_jax.store import files
from aiseeme_jax.task import Task

GAP = 2


def save_views(directory: Path, task: Task, images: Shaped[Array, "b *space c"], seed: int) -> np.ndarray:
    """Writes and gives `views.png`: a row per image, the image itself first, then what the backbone saw of it.

    Of a volume, its three central slices across z, y and x.
    """
    sheet = view_sheet(task, images, seed)
    sheet = sheet if sheet.shape[-1] == 3 else np.repeat(sheet, 3, axis=-1)
    if jax.process_index() == 0:
        from matplotlib import image as writer

        with files.replaced(directory / "views.png") as beside:
            writer.imsave(beside, sheet, format="png")
    return sheet


def view_sheet(task: Task, images: Shaped[Array, "b *space c"], seed: int) -> np.ndarray:
    """The picture of `save_views`: float [H, W, C], 0 to 1."""
    rows = images.shape[0]
    batch = {"image": images, "index": jax.numpy.arange(rows)}
    seen = task.shown_images(task.views(jax.random.key(seeds.derive(seed, "pictures")), batch))
    seen = np.asarray(augment.to_display(seen, task.spec)).reshape(rows, -1, *seen.shape[1:])
    first = np.asarray(augment.stored_to_display(images, task.spec))
    cells = [flat for cell in (first, *np.moveaxis(seen, 1, 0)) for flat in _flat(cell)]
    height = max(cell.shape[1] for cell in cells)
    cells = [_pad(cell, height) for cell in cells]
    return np.concatenate([np.concatenate(list(column), axis=0) for column in cells], axis=1)


def _flat(cell: Float[np.ndarray, "b *space c"]) -> list[Float[np.ndarray, "b h w c"]]:
    """Images as they are, volumes as their central slices."""
    if cell.ndim == 4:
        return [cell]
    return [np.take(cell, cell.shape[axis] // 2, axis=axis) for axis in (1, 2, 3)]


def _pad(cells: np.ndarray, height: int) -> np.ndarray:
    """Centres [B, h, w, C] on white cells of one height, with a gap."""
    up, left = (height - cells.shape[1]) // 2, (height - cells.shape[2]) // 2
    down, right = height - cells.shape[1] - up, max(height - cells.shape[2] - left, 0)
    pad = ((0, 0), (up + GAP, down + GAP), (max(left, 0) + GAP, right + GAP), (0, 0))
    return np.pad(cells, pad, constant_values=1.0)
