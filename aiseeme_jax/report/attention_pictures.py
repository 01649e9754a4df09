"""Pictures of maps: rows are images, columns are arms, and the mask is outlined."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from aiseeme_jax.evidence.localisation import UNKNOWN
from aiseeme_jax.store import files

# Inches of one picture; the line of the mask.
CELL, LINE = 1.4, "cyan"


def save_pictures(
    path: Path,
    images: Float[np.ndarray, "n h w c"],
    masks: UInt8[np.ndarray, "n h w"],
    columns: Mapping[str, Float[np.ndarray, "n h w"]],
    rows: Sequence[str],
) -> None:
    """Writes a PNG: each row the image, and then each column's map over it, each divided by its maximum.

    Args:
      images: in [0, 1].
      columns: maps at the size of the images, by the name of the column.
      rows: what is said beside each image.
    """
    from matplotlib.figure import Figure

    count = len(columns) + 1
    figure = Figure(figsize=(CELL * count + 1, CELL * len(images) + 0.4), layout="constrained")
    axes = figure.subplots(len(images), count, squeeze=False)
    for i, image in enumerate(images):
        grey = image[..., 0] if image.shape[-1] == 1 else image
        for axis, (name, maps) in zip(axes[i], {"image": None, **columns}.items(), strict=True):
            axis.imshow(grey, cmap="gray", vmin=0, vmax=1)
            if maps is not None:
                axis.imshow(maps[i] / max(maps[i].max(), 1e-12), cmap="inferno", alpha=0.55, vmin=0, vmax=1)
            _outline(axis, masks[i])
            axis.set(xticks=[], yticks=[])
            if not i:
                axis.set_title(name.replace(", ", "\n"), fontsize=6)
        axes[i][0].set_ylabel(rows[i], fontsize=6)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=140)
    with files.write_whole(path, drawn.getbuffer().nbytes) as beside:
        beside.write_bytes(drawn.getvalue())


def _outline(axis: object, mask: Shaped[np.ndarray, "h w"]) -> None:
    inside = (mask > 0) & (mask != UNKNOWN)
    if inside.any() and not inside.all():
        axis.contour(inside.astype(float), levels=[0.5], colors=LINE, linewidths=0.8)
