"""Sample views of a task, as the backbone gets them. Look at them first when a loss does not fall."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from aiseeme_jax import augment, seeds
from aiseeme_jax.store import files
from aiseeme_jax.task import Task

GAP = 2


def save_views(directory: Path, task: Task, images: Shaped[Array, "b *space c"], seed: int) -> np.ndarray:
    """Writes `views.png`, and returns it as float [H, W, 3].

    Each row shows an image and then its views. A volume is shown by its central slices across z, y and x.
    """
    sheet = draw_views(task, images, seed)
    sheet = sheet if sheet.shape[-1] == 3 else np.repeat(sheet, 3, axis=-1)
    if jax.process_index() == 0:
        from matplotlib import image as writer

        with files.write_whole(directory / "views.png") as beside:
            writer.imsave(beside, sheet, format="png")
    return sheet


def draw_views(task: Task, images: Shaped[Array, "b *space c"], seed: int) -> np.ndarray:
    """Draws the picture of `save_views`, float [H, W, C], from 0 to 1."""
    batch = {"image": images, "index": jax.numpy.arange(images.shape[0])}
    key = jax.random.key(seeds.derive(seed, "pictures"))
    first = np.asarray(augment.stored_to_display(images, task.spec))
    views = [view for shown in task.pictured() for view in _list_views(shown, batch, key)]
    cells = [flat for cell in (first, *views) for flat in _slice(cell)]
    height = max(cell.shape[1] for cell in cells)
    cells = [_pad(cell, height) for cell in cells]
    return np.concatenate([np.concatenate(list(column), axis=0) for column in cells], axis=1)


def _list_views(task: Task, batch: dict[str, Array], key: PRNGKeyArray) -> list[Float[np.ndarray, "b *space c"]]:
    """The views of each image, one after another."""
    views = task.shown_images(task.views(key, batch))
    shown = np.asarray(augment.to_display(views, task.spec))
    return list(np.moveaxis(shown.reshape(batch["image"].shape[0], -1, *shown.shape[1:]), 1, 0))


def _slice(cell: Float[np.ndarray, "b *space c"]) -> list[Float[np.ndarray, "b h w c"]]:
    """Returns images as they are, and the central slices of volumes."""
    if cell.ndim == 4:
        return [cell]
    return [np.take(cell, cell.shape[axis] // 2, axis=axis) for axis in (1, 2, 3)]


def _pad(cells: np.ndarray, height: int) -> np.ndarray:
    """Centres images [B, h, w, C] on white cells of one height, with a gap around them."""
    up, left = (height - cells.shape[1]) // 2, (height - cells.shape[2]) // 2
    down, right = height - cells.shape[1] - up, max(height - cells.shape[2] - left, 0)
    pad = ((0, 0), (up + GAP, down + GAP), (max(left, 0) + GAP, right + GAP), (0, 0))
    return np.pad(cells, pad, constant_values=1.0)
